"""Writes the snapshot of the public API, tests/files/api.txt: `python tools/api.py`; of a release with `--release`.

Public is what a package under vtokens has in its `__all__`, with the members of its classes that have no leading
underscore; what documents import beside that (`DOCUMENTED`); the names of strategies, recipes and families with their
settings; and the command line. Everything else may change in any release.

A line a name, sorted, so that a change is a line of a diff. tests/test_public_api.py holds the file against the code,
and what differs from the last release against CHANGELOG.md.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

import vtokens
from vtokens.adapters import models
from vtokens.cli import parser
from vtokens.recipes import recipes
from vtokens.strategies import describe, get, list_strategies

ROOT = Path(__file__).parent.parent
SNAPSHOT = ROOT / "tests" / "files" / "api.txt"
RELEASED = ROOT / "tests" / "files" / "api-released.txt"
HEAD = "The public API, written by `python tools/api.py`"

DOCUMENTED = {
    "vtokens.calibrate.relevance": ("RelevanceMap", "relevance"),
    "vtokens.calibrate.tasks": ("TaskVector", "press"),
    "vtokens.core.budget": ("Keep", "budget"),
    "vtokens.core.costs": ("Encoding",),
    "vtokens.core.picture": ("Picture",),
    "vtokens.eval.detectors.benchmarks": ("amber", "amber_words", "pope"),
    "vtokens.eval.detectors.run": ("judged",),
    "vtokens.eval.sweep": ("run",),
    "vtokens.eval.tasks": ("build",),
    "vtokens.integrations.ray_answers": ("answer_file",),
    "vtokens.integrations.ray_data": ("answer",),
    "vtokens.integrations.ray_serve": ("application",),
    "vtokens.serve.settings": ("Settings",),
    "vtokens.strategies.views.heads": ("Heads", "Rows", "Span"),
    "vtokens.strategies.views.logits": ("Logits", "NoPicture", "Pixels", "Prompt", "Same", "Tokens"),
}
"""Module -> the names in it that README and docs import."""


def packages() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each package that says what it exports, and what."""
    for file in sorted((ROOT / "vtokens").rglob("__init__.py")):
        if "__all__" in file.read_text(encoding="utf-8"):
            name = ".".join(file.parent.relative_to(ROOT).parts)
            yield name, tuple(importlib.import_module(name).__all__)


def snapshot() -> dict[str, str]:
    """Every public name -> what is said of it."""
    return dict(sorted({**_python(), **_names(), **_commands(parser(), "$ vtokens")}.items()))


def text(found: dict[str, str], head: str) -> str:
    """The file: a line a name."""
    return f"# {head}\n" + "".join(f"{name}{told}\n" for name, told in found.items())


def read(path: Path) -> dict[str, str]:
    """A file's names, and what it says of each."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return {name: line.removeprefix(name) for line in lines for name in [name_of(line)]}


def name_of(line: str) -> str:
    """The name that a line is about: of the command line `$ vtokens run --keep`, of a strategy `strategy cls`."""
    words = line.split(" ")
    if words[0] == "$":
        option = next((at for at, word in enumerate(words) if word.startswith("--")), None)
        return " ".join(words[: option + 1]) if option else line.partition(" = ")[0].partition(" (")[0]
    if words[0] in ("strategy", "recipe", "family"):
        return line.partition(":")[0]
    return words[0].partition("(")[0].rstrip(":")


def _python() -> dict[str, str]:
    tree = griffe.load("vtokens", search_paths=[str(ROOT)])
    exports = sorted([*packages(), *DOCUMENTED.items()], key=lambda one: -len(one[0]))
    found: dict[str, str] = {}
    classes: list[tuple[str, griffe.Class]] = []
    told: dict[str, str] = {}  # where something is defined -> the public name under which it is described
    for package, names in exports:
        for name in names:
            public = f"{package}.{name}"
            if name == "__version__":
                found[public] = ": str"
                continue
            thing = tree[public.partition(".")[2]]
            thing = thing.final_target if thing.is_alias else thing
            if thing.is_module and name in thing.members:  # a module whose function has its name: `attach`
                thing = thing.members[name]
            if thing.path in told:
                found[public] = f" = {told[thing.path]}"
            elif not thing.is_module:  # a package in `__all__` of another stands for itself
                told[thing.path] = public
                found[public] = _told(thing)
                if isinstance(thing, griffe.Class):
                    classes.append((public, thing))
    for public, cls in classes:
        found |= {f"{public}.{name}": _told(member) for name, member in _members(cls, {*told} - {cls.path})}
    return found


def _members(cls: griffe.Class, elsewhere: set[str]) -> Iterator[tuple[str, Any]]:
    """The public members of a class, but for those of a base that is public itself."""
    for name, member in cls.all_members.items():
        target = member.final_target if member.is_alias else member
        if name.startswith("_") and name not in ("__call__", "__init__"):
            continue
        if target.path.startswith("vtokens.") and not target.is_class and target.parent.path not in elsewhere:
            yield name, target


def _told(thing: Any) -> str:
    if isinstance(thing, griffe.Function):
        return "(" + thing.signature().partition("(")[2]
    if isinstance(thing, griffe.Class):
        return f": class({', '.join(map(str, thing.bases))})"
    return _attribute(thing)


def _attribute(thing: griffe.Attribute) -> str:
    told = "" if thing.annotation is None else f": {thing.annotation}"
    value = str(thing.value) if thing.value is not None else ""
    return told + (f" = {value}" if value and len(value) <= 60 and "property" not in thing.labels else "")


def _names() -> dict[str, str]:
    found = {f"family {name}": "" for name in models() if name}
    for name in list_strategies():
        if get(name).__module__.startswith("vtokens."):
            card = describe(name)
            fields = ", ".join(f"{field}: {kind} = {default!r}" for field, (kind, default) in card.fields.items())
            also = f" (also {', '.join(card.aliases)})" if card.aliases else ""
            found[f"strategy {name}"] = f": {fields}{also}".rstrip()
    for name, cls in recipes().items():
        fields = ", ".join(f"{f.name}: {f.type} = {f.default!r}" for f in cls.__dataclass_fields__.values())
        found[f"recipe {name}"] = f": {fields}"
    return found


def _commands(command: argparse.ArgumentParser, name: str) -> dict[str, str]:
    """An option a line: what it takes, and its default."""
    found = {}
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below, those in action.choices.items():
                found |= {f"{name} {below}": ""} | _commands(those, f"{name} {below}")
        elif not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
            called = max(action.option_strings, key=len, default=action.dest.upper())
            found[f"{name} {called}"] = _option(action)
    return found


def _option(action: argparse.Action) -> str:
    metavar = action.metavar or (action.dest.upper() if action.option_strings and action.nargs != 0 else "")
    takes = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else str(metavar)
    many = f" ({action.nargs})" if action.nargs not in (None, 0, 1) else ""
    default = action.default
    plain = isinstance(default, str | int | float | tuple) and default is not False and default != argparse.SUPPRESS
    needed = " (required)" if action.required and action.option_strings else ""
    return f"{' ' if takes else ''}{takes}{many}{f' = {default!r}' if plain else ''}{needed}"


def write(release: bool = False) -> None:
    """Write the snapshot; of a release also what later changes are held against."""
    found = snapshot()
    SNAPSHOT.write_text(text(found, HEAD), encoding="utf-8")
    if release:
        RELEASED.write_text(text(found, f"The public API of {vtokens.__version__}"), encoding="utf-8")


if __name__ == "__main__":
    write("--release" in sys.argv[1:])
