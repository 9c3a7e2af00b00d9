"""The navigation that follows from the package: a page for each strategy by what it does, and one for each package."""

from __future__ import annotations

from typing import Any

import commands
import reference

from vtokens.strategies import describe, list_strategies

KINDS = {
    "prune": "Drop tokens",
    "merge": "Merge tokens",
    "attend": "Steer attention",
    "contrast": "Hold against another",
}


def filled(nav: list[Any]) -> list[Any]:
    """The navigation with the entries of "strategies/README.md" and "reference/README.md" as sections."""
    made = {"strategies/README.md": _strategies, "reference/README.md": _reference}
    return [
        {title: [value, *made[value]()] if value in made else value for title, value in entry.items()}
        if all(isinstance(value, str) for value in entry.values())
        else entry
        for entry in nav
    ]


def _strategies() -> list[Any]:
    told = [describe(name) for name in list_strategies()]
    return [
        {words: [{one.name: f"strategies/{one.name}.md"} for one in told if one.kind == kind]}
        for kind, words in KINDS.items()
    ]


def _reference() -> list[Any]:
    return [{"Command line": commands.PAGE}, *({name: reference.page(name)} for name in reference.packages())]
