"""SCOPE: tokens that cover what is not covered yet, the salient ones first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.kernels import coverage
from vtokens.strategies.checks import check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Saliency
from vtokens.strategies.subset_pruner import SubsetPruner
from vtokens.strategies.views.visuals import Visuals


@register(
    "scope",
    paper="SCOPE, arXiv:2510.24214",
    venue="NeurIPS 2025",
    evidence="text",
    shown="tests/strategies/test_scope.py::test_the_worked_example",
)
@dataclass(frozen=True)
class Scope(SubsetPruner):
    """Keeps tokens that are like many which nothing kept is like yet, each weighed by its saliency.

    A token's gain is the sum over all tokens of what it adds to their largest cosine with what is kept, which begins at
    0; the one with the largest gain * saliency ** alpha is added.

    Attributes:
        keep: share or count per picture.
        alpha: how much saliency counts; 0 is coverage alone.
    """

    keep: Keep = 0.1
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("alpha", self.alpha)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(),))

    def choose(self, visuals: Visuals, counts: Sequence[int]) -> Tensor:
        units, weight = normalize(visuals.tokens.float(), dim=-1), visuals.saliency().clamp(min=0) ** self.alpha

        def covers(group: int, size: int) -> Tensor:
            own = units[group, :size]
            return own @ own.T

        return coverage(covers, visuals.counts, counts, weight)
