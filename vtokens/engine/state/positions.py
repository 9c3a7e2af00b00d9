"""Rotary positions of what the decoder is given, in the shapes that models use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def rotary_positions(position_ids: Tensor) -> Tensor:
    """int64 (C, B, N) from what the language model is given: 2-D, or 3-D with M-RoPE and perhaps a row for text."""
    if position_ids.dim() == 2:
        return position_ids[None]
    return position_ids[1:] if len(position_ids) == 4 else position_ids


def given_positions(kwargs: Mapping[str, Any], past: int, length: int, device: torch.device) -> Tensor:
    """`position_ids` of a pass in the shape they were given in, or as the language model makes them: int64 (1, W)."""
    positions: Tensor | None = kwargs.get("position_ids")
    return torch.arange(past, past + length, device=device)[None] if positions is None else positions


def fed_positions(past: int, kwargs: dict[str, Any], hidden: Tensor) -> Tensor:
    """int64 (B, W) or (3, B, W): rotary positions of a pass, made as the language model does if it is given none."""
    positions = given_positions(kwargs, past, hidden.shape[1], hidden.device)
    if len(positions) == 4 and positions.dim() == 3:
        positions = positions[1:]  # a row for text, that only tells packed sequences apart
    return positions.expand(*positions.shape[:-2], len(hidden), -1)
