"""The manifest of a results folder: settings of its sweep, written before the first answer and checked ever after."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vtokens.core.errors import shorten
from vtokens.core.reading import read_json
from vtokens.core.writing import write_json
from vtokens.eval.journal import collect, files
from vtokens.schemas import check

SCHEMA = 1
FILE = "manifest.json"
# What may differ when a sweep is taken up again: when and how it was called, where the same weights lay, and how many
# processes shared the cores.
_FREE = ("id", "created", "command", "commit", "model.source", "hardware.threads", "cells")
# What a seed asks; a sweep that is given another seed asks something new.
_HASH = re.compile(r"tasks\..*\.hash\.\d+")


def settle(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Begin the results folder, or check that the one there is of the same sweep; returns what it now holds.

    Cells may be added to a sweep, and those that have answers stay; anything else must be as it was.

    Raises:
        OSError: the folder cannot be written.
        ValueError: the folder is not empty and holds no sweep, or another one: says which setting differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    if not path.exists():
        strangers = sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))
        if strangers:
            raise ValueError(f"{folder} holds {strangers[0]!r} but no {FILE}, so no sweep: give a new or empty folder")
        write_json(path, wanted)
        return wanted
    found = read(folder)
    for key, there, here in _differences(found, wanted):
        raise ValueError(
            f"{folder} holds another sweep: {shorten(key)[1:-1]} is {shorten(there)} there and {shorten(here)} here; "
            "give another folder, or the settings of the one there"
        )
    gone = [cell["cell"] for cell in found["cells"] if cell not in wanted["cells"]]
    gone = [cell for cell in gone if collect(folder / "answers", cell)]
    if gone:
        raise ValueError(
            f"{folder} holds another sweep: the cell {gone[0]!r} is there and not here; "
            "give another folder, ask for the cells there and more, or delete "
            f"{' and '.join(map(str, files(folder / 'answers', gone[0])))} to leave it out"
        )
    if wanted["cells"] != found["cells"]:
        found |= {"cells": wanted["cells"], "tasks": wanted["tasks"]}
        write_json(path, found)
    return found


def settled(content: Mapping[str, Any]) -> dict[str, Any]:
    """What decides whether two sweeps are the same: dotted names of a manifest's settings, and their values."""
    return {key: value for key, value in _flat(content) if key not in _FREE and not _HASH.fullmatch(key)}


def read(folder: str | Path) -> dict[str, Any]:
    """The manifest of a results folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of a schema this version does not know.
    """
    path = Path(folder) / FILE
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no {FILE}: `vtokens eval --out {folder}` makes one")
    try:
        found = read_json(path)
        if isinstance(found, dict) and found.get("schema", SCHEMA) != SCHEMA:
            schema = shorten(found["schema"])
            raise ValueError(f"it has schema {schema}, and this vtokens reads schema {SCHEMA}")
        return dict(check(found, "manifest"))
    except ValueError as error:
        raise ValueError(f"{path} is not the manifest of a sweep: {error}") from error


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What makes two manifests those of different sweeps: the setting, and its value in either."""
    if [*found["tasks"]] != [*wanted["tasks"]]:
        yield "tasks", ",".join(found["tasks"]), ",".join(wanted["tasks"])
    there, here = dict(_flat(found)), dict(_flat(wanted))
    for key in sorted({*there, *here} - set(_FREE)):
        if there.get(key) != here.get(key) and not (_HASH.fullmatch(key) and not (key in there and key in here)):
            yield key, there.get(key), here.get(key)


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
