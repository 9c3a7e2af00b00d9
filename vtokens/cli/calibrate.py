"""`vtokens calibrate`: what a strategy has to know of a model before it can run on it."""

from __future__ import annotations

from typing import Any

from vtokens.cli import calibrate_dymu, calibrate_var, calibrate_vflowopt


def add_to(commands: Any) -> None:
    """Add the command with one subcommand a strategy."""
    calibrate = commands.add_parser(
        "calibrate",
        help="find what a strategy has to know of a model",
        description="Find what a strategy has to know of a model, and write it to a file that its spec names.",
    )
    strategies = calibrate.add_subparsers(metavar="strategy", required=True)
    for one in (calibrate_var, calibrate_dymu, calibrate_vflowopt):
        one.add_to(strategies)
