"""Random selection: the baseline every other strategy must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.strategies.bases import ScorePruner
from vtokens.strategies.registry import register
from vtokens.strategies.views.visuals import Visuals


@register("random")
@dataclass(frozen=True)
class Random(ScorePruner):
    """Keeps a random subset of each picture's tokens, the same for the same seed and picture size.

    Attributes:
        keep: share or count per picture.
        seed: two seeds give two subsets; a batch row is pruned as it would be alone.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed!r} is out of range: an int from 0 to 2**63 - 1 is allowed")

    def score(self, visuals: Visuals) -> Tensor:
        # Drawn on the CPU for each picture size, so that neither device nor batch changes what is kept.
        scores = torch.full(visuals.valid.shape, -1.0)
        for row, count in enumerate(visuals.counts):
            scores[row, :count] = torch.rand(count, generator=torch.Generator().manual_seed(self.seed))
        return scores
