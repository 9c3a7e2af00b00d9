"""States that layers of linear attention keep in place of keys: those of two sequences, one behind the other."""

from __future__ import annotations

import copy
from typing import Any

import torch

_PARTS = ("conv_states", "recurrent_states")
"""Of a cache layer, number -> a tensor (B, ...); one that the layer has no use for is None."""


def joined_states(first: Any, second: Any) -> Any:
    """A cache layer with the rows of `first` and, behind them, those of `second`; both as they are."""
    joined = copy.copy(first)
    for name in _PARTS:
        pairs = {number: (part, getattr(second, name)[number]) for number, part in getattr(first, name).items()}
        joined_parts = {number: None if pair[0] is None else torch.cat(pair) for number, pair in pairs.items()}
        setattr(joined, name, joined_parts)
    return joined


def part_states(joined: Any, first: Any, second: Any) -> None:
    """Bring the rows of a joined cache layer back to the two that it was made of, in place."""
    for name in _PARTS:
        for number, both in getattr(joined, name).items():
            for layer, half in zip((first, second), both.chunk(2) if both is not None else (), strict=False):
                getattr(layer, name)[number].copy_(half)
