"""What a results folder holds: the settings of its sweep, written before the first answer and checked ever after."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from vtokens.core.costs import BUDGET
from vtokens.core.errors import shorten
from vtokens.core.reading import read_json
from vtokens.core.writing import write_json
from vtokens.eval.cells import Cell
from vtokens.eval.journal import collect
from vtokens.eval.machine import hardware, versions
from vtokens.scenes import embedded_models
from vtokens.schemas import check

SCHEMA = 1
FILE = "manifest.json"
# What may differ when a sweep is taken up again: when and how it was called, where the same weights lay, and how many
# processes shared the cores.
_FREE = ("id", "created", "command", "model.source", "hardware.threads", "cells")
# What a seed asks; a sweep that is given another seed asks something new.
_HASH = re.compile(r"tasks\..*\.hash\.\d+")


def build(
    model: PreTrainedModel,
    name: str,
    tasks: Mapping[str, Mapping[str, Any]],
    cells: Sequence[Cell],
    settings: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """The manifest of a sweep.

    Args:
        model: as loaded.
        name: what the user called it.
        tasks: by name, see `vtokens.eval.suite.facts`.
        settings: what else the answers depend on, such as the batch size.
        command: what to run to get the same.
    """
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "id": "",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": versions(),
        "hardware": hardware(model.device),
        "model": {
            "name": name,
            # Where the package lies on this machine says nothing to a reader.
            "source": "embedded" if name in embedded_models() else model.name_or_path,
            "dtype": str(model.dtype).removeprefix("torch."),
            "attn_implementation": model.config._attn_implementation,
            "weights_sha256": weights_hash(model),
        },
        "budget": BUDGET,
        "settings": dict(settings),
        "tasks": {task: dict(facts) for task, facts in tasks.items()},
        "cells": [asdict(cell) for cell in cells],
    }
    settled = {key: value for key, value in _flat(content) if key not in _FREE and not _HASH.fullmatch(key)}
    content["id"] = hashlib.sha256(json.dumps(settled, sort_keys=True).encode()).hexdigest()[:12]
    return content


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
            "give another folder, or ask for the cells there and more"
        )
    if wanted["cells"] != found["cells"]:
        found |= {"cells": wanted["cells"], "tasks": wanted["tasks"]}
        write_json(path, found)
    return found


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


def weights_hash(model: PreTrainedModel) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of all parameters and buffers, as loaded."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


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
