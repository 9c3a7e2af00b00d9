"""HoloV: each stretch of the picture keeps a share of the tokens, by the attention that it gets as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.core.ranks import rank_in
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Saliency
from vtokens.strategies.subset_pruner import SubsetPruner
from vtokens.strategies.views.visuals import Visuals

_ROUNDING = 1e-4
"""Quotas this close below a whole number are one: equal stretches must not differ by rounding."""


@register(
    "holov",
    paper="HoloV (repository obananas/HoloV)",
    evidence="parity",
    shown="tests/strategies/test_holov.py::test_the_release_keeps_the_same_tokens",
)
@dataclass(frozen=True)
class HoloV(SubsetPruner):
    """Keeps the most salient tokens of each of 16 stretches of a picture, more of those with more saliency.

    A picture's tokens are cut into `parts` of equal length in the order in which they stand. Each part's quota is its
    mean saliency's share of the budget, rounded down; what is left over goes to the parts of highest mean, one each.
    What a part has no tokens for is given to the most salient tokens of the others.

    Attributes:
        keep: share or count per picture.
        parts: how many stretches.
    """

    keep: Keep = 0.1
    parts: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parts < 1:
            raise ValueError(f"parts={self.parts} is out of range: at least 1 stretch of a picture is needed")

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(),))

    def choose(self, visuals: Visuals, counts: Sequence[int]) -> Tensor:
        salient = visuals.saliency().masked_fill(~visuals.valid, 0)
        device, parts = salient.device, self.parts
        place = np.stack([_stretch(size, visuals.valid.shape[1], parts) for size in visuals.counts])
        sizes = on_device(np.stack([np.bincount(row, minlength=parts + 1) for row in place]), device)
        part = on_device(place, device)

        sums = salient.new_zeros(len(salient), parts + 1).scatter_add(1, part, salient)[:, :parts]
        mean = sums / sizes[:, :parts].clamp(min=1)
        budget = on_device(counts, device, dtype=torch.long)[:, None]
        share = mean / mean.sum(1, keepdim=True).clamp(min=1e-20)
        quota = (share * budget + _ROUNDING).floor().long()
        spare = budget - quota.sum(1, keepdim=True)
        quota += share.argsort(dim=1, descending=True, stable=True).argsort(1) < spare

        room = torch.cat([quota, torch.zeros_like(budget)], 1)
        first = rank_in(part, salient, visuals.valid) < room.gather(1, part)
        return visuals.best(salient.masked_fill(first, torch.inf), counts).keep


def _stretch(size: int, most: int, parts: int) -> np.ndarray:
    """int64 (most,): the stretch of each of `size` tokens, the first ones a token longer; `parts` on padding."""
    lengths = np.full(parts, size // parts) + (np.arange(parts) < size % parts)
    return np.append(np.repeat(np.arange(parts), lengths), np.full(most - size, parts))
