"""argparse as the commands use it: errors on one line, each with the nearest right name."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NoReturn

from vtokens.cli.output import fail
from vtokens.core.errors import nearest, shorten, unknown


class Parser(argparse.ArgumentParser):
    """argparse, with usage errors on one line that asks whether the nearest option or choice was meant.

    What it reads has two fields more: `positional`, for each argument without dashes whether it can be left out, and
    `read_by`, the command as its help names it.

    Attributes:
        commands: their names.
        hint: what to do instead, behind the error of a choice that is none.
    """

    commands: Collection[str] = ()
    hint = ""

    def error(self, message: str) -> NoReturn:
        fail(f"{message} (see {self.prog} --help)")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        found, rest = self.parse_known_args(args, namespace)
        if not rest:
            return found
        read = [f"{name} is {shorten(getattr(found, name))}" for name in found.positional]
        more = f" ({', '.join(read)}; a text of several words stands in quotes)" if read else ""
        fail(f"unrecognized arguments: {' '.join(rest)}{more} (see {found.read_by} --help)")

    # argparse says that an argument is missing before it says that one is misspelt, and names no near one.
    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        if args is not None:
            self._check_options(args)
        found, rest = super().parse_known_args(args, namespace)
        own = {
            one.dest: one.nargs in (argparse.OPTIONAL, argparse.ZERO_OR_MORE)
            for one in self._get_positional_actions()
            if one.nargs != argparse.PARSER
        }
        # What the parser of a command has left there.
        found.positional, found.read_by = own | getattr(found, "positional", {}), getattr(found, "read_by", self.prog)
        return found, rest

    def _check_options(self, given: Iterable[str]) -> None:
        """End with an error at the first option that is none; those behind a command's name are for its own parser."""
        known = self._option_string_actions
        given = [*given]
        if "--version" in known and "--version" in given:  # reads `--json` itself, and ends the program
            return
        for text in given:
            if text == "--" or (self._subparsers is not None and not text.startswith("-")):
                return
            name = text.partition("=")[0]
            if name[1:] and f"-{name}" in known:  # one dash in place of two
                near = f" Did you mean {f'-{name}'!r}?"
            elif not name.startswith("--") or " " in name or any(option.startswith(name) for option in known):
                continue
            else:
                near = nearest(name, (option for option in known if option.startswith("--")))
            self.error(f"unknown option {shorten(name)}{near and '.' + near}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            where = action if action.option_strings else None
            raise argparse.ArgumentError(where, str(unknown("choice", value, map(str, action.choices))) + self.hint)
