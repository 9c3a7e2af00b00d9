"""`vtokens doctor`: installed releases, whether they fit and work, and how to mend what does not."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from vtokens.cli.output import say

_MARKS = {"ok": "ok", "absent": "-", "wrong": "WRONG"}


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "doctor",
        help="say whether this environment works, and how to mend it",
        description="Print which releases are installed and whether they fit each other, which extras work, the "
        "device, and a self-check on the embedded model: keep=1.0 changes no bit, pruned equals masked, a batch equals "
        "its samples. Exit code 0 if all is well; 1 if something is wrong, with the remedy. An extra that is not "
        "installed is not wrong. Bug reports begin with these lines.",
        epilog="examples:\n  vtokens doctor\n  vtokens doctor --json > doctor.json\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> None:
    from vtokens import __version__
    from vtokens.doctor import Finding, examine

    found: list[Finding] = []
    section = ""
    if not options.json:
        say(f"vtokens {__version__}")
    for one in examine():
        found.append(one)
        if options.json:
            continue
        if one.section != section:
            section = one.section
            say(section)
        remedy = f"\n{'':10}{one.remedy}" if one.remedy else ""
        say(f"  {_MARKS[one.state]:<6}  {one.name}: {one.says}{remedy}")
        sys.stdout.flush()
    wrong = [one for one in found if one.state == "wrong"]
    if options.json:
        say(json.dumps({"vtokens": __version__, "ok": not wrong, "found": [asdict(one) for one in found]}, indent=2))
    elif wrong:
        say(f"{len(wrong)} wrong: {', '.join(one.name for one in wrong)}")
        for remedy in dict.fromkeys(one.remedy for one in wrong if one.remedy):
            say(f"  {remedy}")
        if not any(one.remedy for one in wrong):
            say("  what is installed fits, so this is a fault of ours: please report it with these lines")
    else:
        say("all is well")
    sys.stdout.flush()
    if wrong:
        sys.exit(1)
