"""Random tokens go inside the decoder, at depths where no ranking does better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.strategies.checks import check_seed
from vtokens.strategies.registry import register
from vtokens.strategies.staged import StagedPruner
from vtokens.strategies.views.visuals import Visuals


@register(
    "late_random",
    paper="Information Horizon, arXiv:2512.07580",
    venue="CVPR 2026",
    evidence="text",
    shown="tests/strategies/test_compositions.py::test_late_tokens_are_drawn_alike_for_equal_pictures",
)
@dataclass(frozen=True)
class LateRandom(StagedPruner):
    """Keeps a random subset of the visual tokens from one decoder layer on, the same for the same seed and size.

    Attributes:
        keep: share or count per picture that the last stage leaves.
        layers: the decoder layers before which tokens are dropped, as numbers or as shares of the depth (20 of 32).
        before: the shares that earlier stages leave, where there are several layers.
        seed: two seeds give two subsets; a batch row is pruned as it would be alone.
    """

    schedules: ClassVar[tuple[tuple[float, ...], ...]] = ((0.15,),)
    keep: Keep = 0.15
    layers: tuple[int | float, ...] = (0.625,)
    before: tuple[float, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)

    def possible(self, facts: Facts) -> Sequence[int]:
        return range(1, facts.depth)

    def score(self, visuals: Visuals, index: int) -> Tensor:
        return visuals.drawn(self.seed)
