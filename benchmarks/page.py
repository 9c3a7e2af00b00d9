"""Pages with parts that programs write, each between two comments that name the part and the command."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Page:
    """A page with parts that a program writes, between `<!-- name: command -->` and `<!-- end of name -->`.

    Attributes:
        path: the file.
        command: what writes the parts, as the comments name it.
        parts: what makes each part, by its name; or a function that makes all of them.
        some: whether a part may have no place on the page, and is not made then.
    """

    path: Path
    command: str
    parts: Mapping[str, Callable[[], str]] | Callable[[], Mapping[str, str]]
    some: bool = False

    def read(self) -> str:
        """The page as it is."""
        return self.path.read_text(encoding="utf-8")

    def opening(self, name: str) -> str:
        """The comment before a part."""
        return f"<!-- {name}: {self.command} -->\n"

    def fresh(self) -> str:
        """The page with its parts written anew.

        Raises:
            ValueError: it has a place for a part that nothing makes, one that does not end, or, unless `some` may be
                missing, none for a part.
        """
        text, made = self.read(), self.parts() if callable(self.parts) else self.parts
        name = r"(?P<name>[a-z0-9_ -]+)"
        there = re.findall(rf"<!-- {name}: {re.escape(self.command)} -->\n", text)
        if unknown := sorted(set(there) - made.keys()):
            raise ValueError(f"{self.path} has places for {', '.join(unknown)}, which `{self.command}` does not make")
        if not self.some and (missing := sorted(made.keys() - set(there))):
            raise ValueError(f"{self.path} has no place for {', '.join(missing)}")

        def anew(match: re.Match[str]) -> str:
            part = made[match["name"]]
            body = part if isinstance(part, str) else part()
            return f"{self.opening(match['name'])}{body}<!-- end of {match['name']} -->"

        section = rf"<!-- {name}: {re.escape(self.command)} -->\n.*?<!-- end of (?P=name) -->"
        text, count = re.subn(section, anew, text, flags=re.DOTALL)
        if count != len(there):
            raise ValueError(f"{self.path} has {len(there)} places for parts, of which {count} end")
        return text

    def write(self) -> None:
        """Bring the page up to date."""
        self.path.write_text(self.fresh(), encoding="utf-8")
