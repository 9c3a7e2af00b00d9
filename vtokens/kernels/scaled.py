"""Scores of each set, brought to the range from 0 to 1."""

from __future__ import annotations

import torch
from torch import Tensor


def scaled(scores: Tensor, valid: Tensor) -> Tensor:
    """float32 (G, M): the scores of each set from 0 to 1, min-max; 1 where all are equal, and 0 on padding.

    Args:
        scores: floating (G, M).
        valid: bool (G, M), False on the padding of shorter sets.
    """
    scores = scores.float()
    low = scores.masked_fill(~valid, torch.inf).amin(1, keepdim=True)
    spread = scores.masked_fill(~valid, -torch.inf).amax(1, keepdim=True) - low
    found = torch.where(spread > 0, (scores - low) / spread.clamp(min=torch.finfo(torch.float32).tiny), 1.0)
    return found.masked_fill(~valid, 0.0)
