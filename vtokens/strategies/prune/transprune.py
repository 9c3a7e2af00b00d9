"""TransPrune: how far tokens move through a few layers, and what the instruction attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Attention, Change, Part, Signal
from vtokens.strategies.staged import StagedPruner
from vtokens.strategies.views.visuals import Visuals

_PARTS: tuple[Part, ...] = ("attention", "mlp")
_LEAST = 1e-8


@register(
    "transprune",
    paper="TransPrune, arXiv:2507.20630",
    venue="CVPR 2026",
    evidence="parity",
    shown="tests/strategies/test_transprune.py::test_scores_are_those_of_the_release",
)
@dataclass(frozen=True)
class TransPrune(StagedPruner):
    """Keeps at three depths the tokens that move most, in length and direction, and that the text attends to.

    Attention and MLP of a layer are given normed states x and put out y. A token's transition is |y| / |x| times the
    softmax of 1 - cos(x, y) over all positions, both parts added up, over the layers from one before the first stage
    on. A stage's score is that and the mean attention of the text behind the picture in the layer before, each shared
    out over the picture's tokens.

    Attributes:
        keep: share or count per picture that the last stage leaves.
        layers: the decoder layers before which the stages run, as numbers or as shares of the depth (7, 9 and 12 of
            32).
        before: the shares that the earlier stages leave; None: those of the release, 0.875 and 0.625 for keep=0.125.
    """

    schedules: ClassVar[tuple[tuple[float, ...], ...]] = ((0.875, 0.625, 0.125),)
    keep: Keep = 0.125
    layers: tuple[int | float, ...] = (0.21875, 0.28125, 0.375)
    before: tuple[float, ...] | None = None

    def needs(self, facts: Facts) -> Needs:
        stages = self.prepare(facts)
        gone = range(stages[0] - 1, stages[-1])
        signals: list[Signal] = [Attention(layer - 1, "text") for layer in stages]
        signals += [
            Change(layer, part) for layer in gone for part in _PARTS if part == "mlp" or layer in facts.attending
        ]
        return Needs(signals=signals, layer=stages, compact=self.positions == "compact")

    def score(self, visuals: Visuals, index: int) -> Tensor:
        moved = torch.zeros_like(visuals.valid, dtype=torch.float32)
        for layer in range(visuals.prepared[0] - 1, index):
            for part in _PARTS:
                if visuals.observed.knows(Change(layer, part)):
                    length, _, unlike = visuals.grouped(visuals.changes(layer, part)).unbind(-1)
                    moved = moved + length * unlike
        asked = visuals.attention(index - 1, "text")
        return sum((_share(part, visuals.valid) for part in (moved, asked)), torch.zeros_like(moved))


def _share(values: Tensor, valid: Tensor) -> Tensor:
    values = values.masked_fill(~valid, 0)
    return values / (values.sum(1, keepdim=True) + _LEAST)
