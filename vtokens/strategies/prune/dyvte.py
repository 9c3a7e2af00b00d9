"""DyVTE without its trained gates: all visual tokens leave once the prompt's last position has stopped looking."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layer, check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention
from vtokens.strategies.views.visuals import Visuals


@register(
    "dyvte",
    paper="DyVTE, arXiv:2411.19628",
    venue="NeurIPS 2025",
    evidence="stand-in",
    shown="tests/strategies/test_dyvte.py::test_tokens_leave_where_attention_has_gone",
)
@dataclass(frozen=True)
class DyVTE(Strategy):
    """Drops all visual tokens of a prompt at the first layer before which its last position hardly looked at them.

    It did so if, in each of `patience` layers one after the other, less than `epsilon` of its attention (mean over
    heads) fell on them. The released method asks a trained gate in each layer, which does not come with any model here.

    Attributes:
        epsilon: share of attention, 0 to 1; 0 never drops any.
        patience: layers in which it must be smaller.
        first: decoder layer before which nothing leaves.
    """

    epsilon: float = 0.05
    patience: int = 2
    first: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("epsilon", self.epsilon)
        for name, value in (("patience", self.patience), ("first", self.first)):
            if value < 1:
                raise ValueError(f"{name}={value} is out of range: 1 and above is allowed")

    def check(self, facts: Facts) -> None:
        if self.epsilon:  # else nothing is looked at
            check_layer("first", self.first, facts.depth, first=1)
            if self.patience > len(facts.attending):
                raise ValueError(
                    f"patience={self.patience} is out of range for a model with {len(facts.attending)} layers with "
                    f"attention: 1 to {len(facts.attending)} is allowed, or no token would ever leave"
                )

    def needs(self, facts: Facts) -> Needs:
        asked: set[int] = set()
        before: list[int] = []
        for index in facts.behind_attending if self.epsilon else ():
            earlier = [layer for layer in facts.attending if layer < index][-self.patience :]
            if index >= self.first and len(earlier) == self.patience:
                before.append(index)
                asked.update(earlier)
        return Needs(signals=tuple(Attention(layer) for layer in sorted(asked)), layer=before)

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        asked = [layer for layer in range(index) if visuals.observed.knows(Attention(layer))][-self.patience :]
        mass = torch.stack([torch.where(visuals.layout.visual, visuals.received(layer), 0.0).sum(1) for layer in asked])
        leave = (mass < self.epsilon).all(0)
        owner = on_device(visuals.layout.owner, leave.device, dtype=torch.long)
        return Selection(visuals.valid & ~leave[owner][:, None])
