"""Padding masks of a sequence in two parts: what was fed before, and what is fed now."""

from __future__ import annotations

import torch
from torch import Tensor


def join_padding(before: Tensor | None, after: Tensor | None, past: int, length: int) -> Tensor | None:
    """bool (B, past + length): padding masks (B, past) and (B, length) side by side; None stands for all True."""
    if before is None:
        return None if after is None else torch.cat([after.new_ones(len(after), past), after], 1)
    if after is None:
        after = before.new_ones(len(before), length)
    return torch.cat([before.to(after.device), after], 1)
