"""PyramidDrop: at a quarter, a half and three quarters of the depth, half of the visual tokens that are left go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Attention
from vtokens.strategies.staged import StagedPruner
from vtokens.strategies.views.visuals import Visuals


@register(
    "pyramiddrop",
    paper="PyramidDrop, arXiv:2410.17247",
    venue="CVPR 2025",
    aliases=("pdrop",),
    evidence="text",
    shown="tests/strategies/test_pyramiddrop.py::test_each_stage_keeps_what_the_last_word_attends_to",
)
@dataclass(frozen=True)
class PyramidDrop(StagedPruner):
    """Keeps at each of several depths the visual tokens to which the last position of the prompt attends most.

    The score is the attention of the layer before a stage, the mean over heads.

    Attributes:
        keep: share or count per picture that the last stage leaves; stages before it leave equal ratios, as 0.5, 0.25
            and 0.125.
        layers: the decoder layers before which tokens are dropped, as numbers or as shares of the depth.
        before: the shares that the earlier stages leave; None: equal ratios.
    """

    schedules: ClassVar[tuple[tuple[float, ...], ...]] = ((0.5, 0.25, 0.125),)
    keep: Keep = 0.125
    layers: tuple[int | float, ...] = (0.25, 0.5, 0.75)
    before: tuple[float, ...] | None = None

    def reads(self, layer: int) -> Needs:
        return Needs(signals=(Attention(layer - 1, "last"),))

    def score(self, visuals: Visuals, index: int) -> Tensor:
        return visuals.attention(index - 1, "last")
