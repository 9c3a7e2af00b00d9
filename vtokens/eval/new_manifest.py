"""The manifest of a sweep that begins: what it asks, of which weights, with which releases, on which machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch
from transformers import PreTrainedModel

from vtokens.bench.row import commit
from vtokens.core.costs import BUDGET
from vtokens.eval.cells import Cell
from vtokens.eval.machine import hardware, versions
from vtokens.eval.manifest import SCHEMA, settled
from vtokens.scenes import embedded_models


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
        "commit": commit(),
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
        "cells": [_entry(cell) for cell in cells],
    }
    content["id"] = hashlib.sha256(json.dumps(settled(content), sort_keys=True).encode()).hexdigest()[:12]
    return content


def _entry(cell: Cell) -> dict[str, Any]:
    """A cell as the manifest has it: a recipe only where there is one, as folders without any were written before."""
    found = asdict(cell)
    if cell.recipe == "none":
        del found["recipe"]
    return found


def weights_hash(model: PreTrainedModel) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of all parameters and buffers, as loaded."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
