"""Activation checkpointing: layers that run a second time in the backward pass do so without the tokens' layout."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch import nn

from vtokens.adapters import Adapter

_MARKS = (
    ("torch.distributed.algorithms._checkpoint.checkpoint_wrapper", "CheckpointWrapper"),
    ("torch.distributed._composable.contract", "REGISTRY_KEY"),
)
"""Where torch keeps the class of its wrappers, and the name under which its composable `checkpoint` marks a module."""


def check_decoder_runs_once(adapter: Adapter) -> None:
    """Raise `ValueError` if decoder layers are to run again in the backward pass."""
    decoder = adapter.language_model
    if decoder.training and getattr(decoder, "gradient_checkpointing", False):
        raise ValueError(
            "gradient checkpointing runs layers a second time, without the tokens' layout: call "
            "model.activation_checkpointing_disable() (in older releases of transformers "
            "gradient_checkpointing_disable()), give a trainer gradient_checkpointing=False (TRL's default is True), "
            "or detach() the strategy for training"
        )
    _check(adapter, decoder, "layers a second time, without the tokens' layout")


def check_tower_runs_once(adapter: Adapter) -> None:
    """Raise `ValueError` if blocks of the vision tower are to run again in the backward pass."""
    for tower in dict.fromkeys(adapter.towers.values()):
        _check(adapter, tower.module, "the tower's blocks a second time, when their tokens are merged already")


def _check(adapter: Adapter, part: nn.Module, what: str) -> None:
    if not (torch.is_grad_enabled() or part.training):
        return
    inside = set(part.modules())
    for wrapper in _checkpointed(adapter.model):
        if wrapper in inside or any(module is part for module in wrapper.modules()):
            raise ValueError(
                f"a {type(wrapper).__name__} (activation checkpointing, as FSDP's) runs {what}: leave activation "
                "checkpointing out, or detach() the strategy for training"
            )


def _checkpointed(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that torch's wrappers, or its composable `checkpoint`, run again."""
    # Nobody has used what was never imported.
    wrapper, composable = (getattr(sys.modules.get(name), at, None) for name, at in _MARKS)
    if wrapper is None and composable is None:
        return
    for module in model.modules():
        marked = module.__dict__.get(str(composable)) or ()
        if (wrapper is not None and isinstance(module, wrapper)) or "checkpoint" in marked:
            yield module
