"""Random selection: the baseline every other strategy must beat."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtokens.strategies.bases import ScorePruner
from vtokens.strategies.checks import check_seed
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
        check_seed(self.seed)

    def score(self, visuals: Visuals) -> Tensor:
        return visuals.drawn(self.seed)
