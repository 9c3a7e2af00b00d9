"""V2Drop: visual tokens that a layer hardly changes go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Entering
from vtokens.strategies.staged import StagedPruner
from vtokens.strategies.views.visuals import Visuals


@register(
    "v2drop",
    paper="V2Drop, arXiv:2509.01552",
    venue="CVPR 2026",
    evidence="text",
    shown="tests/strategies/test_v2drop.py::test_each_stage_keeps_what_the_layer_before_changed_most",
)
@dataclass(frozen=True)
class V2Drop(StagedPruner):
    """Keeps at each of several depths the visual tokens that the decoder layer before it has changed most.

    The score is |x' - x|, the distance between the states that entered that layer and those it leaves. No attention is
    read.

    Attributes:
        keep: share or count per picture that the last stage leaves; the release leaves one token.
        layers: the decoder layers before which tokens are dropped, as numbers or as shares of the depth (3, 17 and 22
            of 32).
        before: the shares that the earlier stages leave; None: those of the release, 0.5 and 0.25, or `keep` where that
            is more.
    """

    schedules: ClassVar[tuple[tuple[float, ...], ...]] = ((0.5, 0.25, 1 / 576),)
    keep: Keep = 1
    layers: tuple[int | float, ...] = (0.09375, 0.53125, 0.6875)
    before: tuple[float, ...] | None = None

    def shares(self, keep: float) -> tuple[float, ...]:
        return self.before or tuple(max(one, keep) for one in self.schedules[0][:-1])

    def possible(self, facts: Facts) -> Sequence[int]:
        return range(1, facts.depth)

    def reads(self, layer: int) -> Needs:
        return Needs(signals=(Entering(layer - 1),))

    def score(self, visuals: Visuals, index: int) -> Tensor:
        return (visuals.tokens.float() - visuals.entered(index - 1).float()).norm(dim=-1)
