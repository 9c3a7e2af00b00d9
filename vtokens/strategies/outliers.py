"""Scores that stand out of their group: for strategies that keep or lift what the vision tower dwells on."""

from __future__ import annotations

import torch
from torch import Tensor


def outliers(scores: Tensor, valid: Tensor) -> Tensor:
    """bool (G, M): scores (G, M) above Q3 + 1.5 (Q3 - Q1) of their group; quartiles are interpolated, as NumPy's are.

    Computed in float64; padding, where `valid` (G, M) is False, may hold anything and is never one.
    """
    scores, last = scores.double(), (valid.sum(1, keepdim=True) - 1).clamp(min=0)
    order = scores.masked_fill(~valid, torch.inf).sort(1).values

    def quantile(share: float) -> Tensor:
        at = last * share
        low = at.floor().long()
        one, other = order.gather(1, low), order.gather(1, (low + 1).clamp(max=order.shape[1] - 1))
        return torch.where(at > low, one + (other - one) * (at - low), one)

    high = quantile(0.75)
    return (scores > high + 1.5 * (high - quantile(0.25))) & valid
