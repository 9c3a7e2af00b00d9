"""The page of the command line, written by the commands' own parsers: it says what `--help` says."""

from __future__ import annotations

import argparse
import os

from vtokens import cli

PAGE = "reference/cli.md"
HEAD = """# Command line

What `vtokens COMMAND --help` prints, for every command.
"""


def page() -> str:
    """The text of the page."""
    os.environ["COLUMNS"] = "88"
    top = cli.parser()
    parts = [HEAD, _shown(top)]
    for parser in _commands(top):
        name = parser.prog
        parts.append(f"{'#' * (len(name.split()))} {name}\n\n{_shown(parser)}")
    return "\n".join(parts)


def _shown(parser: argparse.ArgumentParser) -> str:
    return f"```text\n{parser.format_help().rstrip()}\n```\n"


def _commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of a parser's commands, and of theirs, in the order in which `--help` lists them."""
    found: list[argparse.ArgumentParser] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in dict.fromkeys(action.choices.values()):
                found += [one, *_commands(one)]
    return found
