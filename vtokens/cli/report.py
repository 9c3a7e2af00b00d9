"""`vtokens report`: a results folder as a page and plots."""

from __future__ import annotations

import argparse
from typing import Any

from vtokens.cli.output import say


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "report",
        help="make a page and plots of a sweep",
        description="Write report.html, one page that needs no network and nothing beside it, and plots/*.png from "
        "what `vtokens eval` left in a folder.",
        epilog="examples:\n  vtokens report runs/x\n  vtokens report runs/x --out docs/x\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("folder", help="a results folder, as `vtokens eval --out` writes it")
    command.add_argument("--out", metavar="DIR", help="where to write (default: the results folder)")
    command.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from vtokens.report import write

    say(write(options.folder, options.out))
