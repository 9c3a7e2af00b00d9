"""Columns of a batch at which a mask holds."""

from __future__ import annotations

import torch
from torch import Tensor


def columns_of(mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The last `most` columns at which a mask bool (..., N) holds: int64 (..., most), ascending, and bool (..., most).

    The second is False, and the first 0, on padding in front, where it holds at fewer.
    """
    place = torch.arange(mask.shape[-1], device=mask.device)
    found = torch.where(mask, place, -1).sort(-1).values[..., max(0, mask.shape[-1] - most) :]
    return found.clamp(min=0), found >= 0


def last_column(mask: Tensor) -> Tensor:
    """int64 (..., 1): the last column at which a mask bool (..., N) holds, below 0 where it holds at none."""
    place = torch.arange(mask.shape[-1], device=mask.device)
    return torch.where(mask, place, -1).amax(-1, keepdim=True)
