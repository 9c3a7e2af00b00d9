"""VISTA: each MLP is steered towards what the picture changed, and late layers have a say in the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.bases import Steerer
from vtokens.strategies.checks import check_share, check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.logits import Logits
from vtokens.strategies.views.states import States

_WAY = "vista.way"
ROUNDING = 2
"""So many units in the last place are no change: early layers that look no further than a few tokens see no picture."""


@dataclass(frozen=True)
class Look(Steerer):
    """Notes for each sample what its picture changes in the states that leave a layer, where the prompt ends."""

    name: ClassVar[str] = "vista.look"

    def needs(self, facts: Facts) -> Needs:
        return Needs(text_lane=True)

    def steer(self, states: States) -> None:
        text = states.text_lane
        if states.visual is None or text is None:
            return
        # Not where all of a sample's tokens were dropped, whatever others of the batch keep.
        shown = states.visual.any(1)
        full = states.at_last().float()
        way, least = full - text, ROUNDING * torch.finfo(states.hidden.dtype).eps
        seen = shown[:, None] & (way.norm(dim=-1, keepdim=True) > least * full.norm(dim=-1, keepdim=True))
        states.remember(_WAY, torch.where(seen, way, 0))


@register(
    "vista",
    paper="VISTA (The Hidden Life of Tokens), arXiv:2502.03628",
    venue="ICML 2025",
    evidence="text",
    shown="tests/strategies/test_vista.py::test_answers_are_those_of_the_formula",
)
@dataclass(frozen=True)
class Vista(Strategy):
    """Steers what MLPs put out towards what the picture changed, and mixes late layers' logits into the answer.

    Two passes over the prompt, with the picture and without, give a vector v for each layer, the difference of the
    states that leave it where the prompt ends. In the pass that follows, and in all later ones, the output x of its MLP
    becomes |x| unit(unit(x) + weight (1 + max(0, cos(x, -v))) unit(v)), at all positions. The logits become
    (1 - gamma) l + gamma m, where m is the mean of what the output layer makes of the states that leave late layers.

    Attributes:
        weight: lambda of the paper, how far it steers; 0 steers nothing, and saves the two passes.
        gamma: what share late layers have of the logits; 0 leaves them alone.
        late: how many layers before the last one have it; None is 6 of 32, in proportion.
        normed: their states go through the norm behind the last layer first.
    """

    weight: float = 0.17
    gamma: float = 0.3
    late: int | None = None
    normed: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("weight", self.weight)
        check_share("gamma", self.gamma)

    def check(self, facts: Facts) -> None:
        if self.late is not None and not 1 <= self.late < facts.depth:
            raise ValueError(
                f"late={self.late} layers before the last one of {facts.depth}: 1 to {facts.depth - 1} is allowed"
            )

    def prepare(self, facts: Facts) -> tuple[int, ...]:
        """The decoder layers that the states enter which have a share."""
        late = max(1, round(6 / 32 * facts.depth)) if self.late is None else self.late
        return tuple(range(max(0, facts.depth - late), facts.depth)) if self.gamma else ()

    def needs(self, facts: Facts) -> Needs:
        mlp, early = range(facts.depth) if self.weight else (), self.prepare(facts)
        return Needs(mlp=tuple(mlp), early=early, norm=self.normed and bool(early), once=True)

    def rehearsal(self, facts: Facts) -> Look | None:
        return Look() if self.weight else None

    def at_states(self, states: States) -> Tensor | None:
        way = states.recall(_WAY)
        return None if way is None else steered(states.hidden.float(), way, self.weight) - states.hidden

    def at_logits(self, logits: Logits) -> Tensor:
        if self.weight and logits.step is None:
            raise ValueError(
                "vista steers by the end of the prompt, which a pass without a cache cannot tell from the answer: "
                "leave use_cache=True, or steer nothing (weight=0)"
            )
        if not logits.prepared:
            return logits.positive
        late = torch.stack([logits.early(layer, self.normed) for layer in logits.prepared]).mean(0)
        return (1 - self.gamma) * logits.positive + self.gamma * late


def steered(hidden: Tensor, way: Tensor, weight: float) -> Tensor:
    """float32 (B, W, D): MLP outputs turned towards vectors (B, D), as long as before; where those are 0, as before."""
    unit, way = normalize(hidden, dim=-1), normalize(way.to(hidden), dim=-1)[:, None]
    away = -(unit * way).sum(-1, keepdim=True)
    turned = normalize(unit + weight * (1 + away.clamp(min=0)) * way, dim=-1)
    return torch.where((way != 0).any(-1, keepdim=True), turned * hidden.norm(dim=-1, keepdim=True), hidden)
