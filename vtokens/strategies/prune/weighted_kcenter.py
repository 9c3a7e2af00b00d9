"""SCoRe: a weighted k-center, where a token's distance to what is kept counts by its saliency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.kernels import farthest_point, first_most
from vtokens.strategies.checks import check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Saliency
from vtokens.strategies.subset_pruner import SubsetPruner
from vtokens.strategies.views.visuals import Visuals


@register(
    "weighted_kcenter",
    paper="SCoRe, https://cvpr.thecvf.com/virtual/2026/poster/39155",
    aliases=("score_kcenter",),
    venue="CVPR 2026",
    evidence="text",
    shown="tests/strategies/test_weighted_kcenter.py::test_the_worked_example",
)
@dataclass(frozen=True)
class WeightedKCenter(SubsetPruner):
    """Keeps the most salient token, then each time the one whose distance to those kept, times saliency, is largest.

    Distance is 1 - cosine of projected features to the nearest kept token, saliency is raised to the power `alpha`.

    Attributes:
        keep: share or count per picture.
        alpha: how much saliency counts; 0 is farthest-point sampling behind the first token.
    """

    keep: Keep = 0.1
    alpha: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("alpha", self.alpha)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(),))

    def choose(self, visuals: Visuals, counts: Sequence[int]) -> Tensor:
        salient = visuals.saliency()
        salient = salient.masked_fill(salient.isnan() | ~visuals.valid, -torch.inf)
        weight = salient.clamp(min=0) ** self.alpha
        return farthest_point(visuals.tokens, visuals.valid, counts, first_most(salient), "kcenter", weight)
