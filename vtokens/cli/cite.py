"""`vtokens cite`: BibTeX of what strategies and recipes come from."""

from __future__ import annotations

import argparse
from typing import Any

from vtokens.cli.output import say


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "cite",
        help="print the BibTeX of strategies and recipes",
        description="Print a BibTeX entry for each paper that strategies and recipes come from, and for vtokens. A "
        "strategy that is joined to others, or is given settings, is named as everywhere.",
        epilog='examples:\n  vtokens cite "visionzip+census"\n  vtokens cite fastv crop >> references.bib\n'
        "  vtokens cite --all\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("spec", nargs="*", help='a strategy, such as "cls(keep=0.5)+fastv", or a recipe')
    command.add_argument("--all", action="store_true", help="every strategy and recipe there is")
    command.set_defaults(run=_cite)


def _cite(options: argparse.Namespace) -> None:
    from vtokens.strategies.citations import cite, cite_all

    if options.all == bool(options.spec):
        raise ValueError('name what to cite, as in vtokens cite "visionzip+census", or give --all alone')
    say((cite_all() if options.all else cite(*options.spec)).rstrip())
