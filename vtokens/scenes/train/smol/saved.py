"""Checkpoints: all that a run needs to go on, in one safetensors file that is whole or as it was before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vtokens.core.writing import append, fresh

_FACTS = "facts"


def write(
    path: Path,
    model: nn.Module,
    adam: torch.optim.Optimizer,
    facts: dict[str, Any],
    without: str | None = None,
    more: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint.

    Args:
        path: where.
        model: its tensors are kept, but those that begin with `without`.
        adam: its moments are kept.
        facts: JSON.
        more: further tensors, by names that begin with neither "model." nor "adam.".
    """
    kept = {k: v for k, v in model.state_dict().items() if without is None or not k.startswith(without)}
    tensors = {f"model.{k}": v.detach().contiguous().clone() for k, v in kept.items()} | dict(more or {})
    parameters = [p for group in adam.param_groups for p in group["params"]]
    for number, parameter in enumerate(parameters):
        for name, value in adam.state.get(parameter, {}).items():
            tensors[f"adam.{number}.{name}"] = torch.as_tensor(value).detach().contiguous().clone()
    with fresh(path) as file:
        append(file, save(tensors, metadata={_FACTS: json.dumps(facts)}), path, "the last checkpoint is kept")


def facts(path: Path) -> dict[str, Any]:
    """What `write` was told beside the tensors."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[_FACTS])


def tensors(path: Path, part: str = "model.") -> dict[str, Tensor]:
    """The tensors whose names begin with `part`, without it."""
    with safe_open(path, "pt") as file:
        return {k.removeprefix(part): file.get_tensor(k) for k in file.keys() if k.startswith(part)}  # noqa: SIM118


def load(path: Path, model: nn.Module, without: str | None = None) -> None:
    """Bring `model` back to where `write` left it.

    Raises:
        ValueError: the checkpoint lacks tensors that do not begin with `without`, or has others.
    """
    found = model.load_state_dict(tensors(path), strict=False)
    missing = [k for k in found.missing_keys if without is None or not k.startswith(without)]
    if missing or found.unexpected_keys:
        raise ValueError(
            f"{path} is of another recipe: it lacks {missing[:3]}, and has {found.unexpected_keys[:3]} beside"
        )


def restore(path: Path, model: nn.Module, adam: torch.optim.Optimizer, without: str | None = None) -> dict[str, Any]:
    """Bring `model` and `adam` back to where `write` left them; returns the facts."""
    load(path, model, without)
    parameters = [p for group in adam.param_groups for p in group["params"]]
    for name, value in tensors(path, "adam.").items():
        number, _, what = name.partition(".")
        adam.state[parameters[int(number)]][what] = value
    return facts(path)
