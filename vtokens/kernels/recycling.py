"""A rule that moves attention between four groups of keys; VAR's, arXiv:2503.03321."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GIVER, DRAIN, TARGET, REST = range(4)
"""The groups: keys that give, keys beside the target that give, keys that receive, keys that keep what they have."""


@dataclass(frozen=True)
class Recycling:
    """Gives a fraction of what `GIVER` and `DRAIN` hold to `TARGET`, in rows that look at the latter two enough.

    A change for `reweighed_attention`; knowing the rule, a GPU applies it where it merges the groups.

    Attributes:
        fraction: what is given, in [0, 1].
        min_share: the least that `DRAIN` and `TARGET` hold together.
        min_ratio: the least part of that which `TARGET` holds. Both must hold something.
    """

    fraction: float
    min_share: float
    min_ratio: float

    def applies(self, weights: Tensor) -> Tensor:
        """bool (...): the rows that change, by the share of each group, float32 (4, ...)."""
        drain, target = weights[DRAIN], weights[TARGET]
        both = drain + target
        return (both >= self.min_share) & (target >= self.min_ratio * both) & (drain > 0) & (target > 0)

    def __call__(self, weights: Tensor) -> Tensor:
        """The shares (4, ...) after the change; they keep their sum."""
        giver, drain, target, rest = weights
        kept, moved = 1 - self.fraction, self.fraction * (giver + drain)
        changed = torch.stack([kept * giver, kept * drain, target + moved, rest])
        return torch.where(self.applies(weights), changed, weights)
