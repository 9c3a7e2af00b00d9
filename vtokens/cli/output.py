"""What commands print: lines on stdout and stderr that cannot steer the terminal, tables, errors and warnings."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from vtokens.core.terminal import one_line, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_MOST = 1000
"""Characters of an error or a warning; longer ones repeat what was given."""


def say(text: object, error: bool = False) -> None:
    """Print on stdout, or on stderr; what would steer the terminal is escaped."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout)


def quoted(text: str) -> str:
    """`text` as an argument for a shell, in double quotes where these change nothing."""
    return shlex.quote(text) if set(text) & {*'"$`\\!'} else f'"{text}"'


def note(text: object, kind: str = "note") -> None:
    """One line on stderr: "vtokens: note: ..."."""
    say(f"vtokens: {kind}: {one_line(str(text), _MOST)}", error=True)


def fail(message: object) -> NoReturn:
    """One line on stderr, exit code 2."""
    note(message, "error")
    sys.exit(2)


def cell(text: object, style: str = "") -> Text:
    """Text for a table, which is neither markup nor able to steer the terminal."""
    from rich.text import Text

    return Text(printable(str(text)), style)


def console(**options: Any) -> Console:
    """A rich console that leaves a closed pipe to `main`, where rich itself would end with exit code 1."""
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Screen(**options)


@contextmanager
def warnings_on_one_line() -> Iterator[None]:
    """Show warnings as commands show errors, on one line, instead of with a line of our code."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        note(message, "warning")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
