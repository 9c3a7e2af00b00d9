"""IAVA: tokens that are looked at whatever is asked, and less once the question is read, are what to move away from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.core.layout import Grouping
from vtokens.strategies.checks import check_layers, check_weight
from vtokens.strategies.contrast.weighted import Weighted
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention
from vtokens.strategies.views.logits import Tokens
from vtokens.strategies.views.visuals import Visuals


@register(
    "iava",
    paper="IAVA, arXiv:2503.18556",
    evidence="stand-in",
    shown="tests/strategies/test_iava.py::test_irrelevant_tokens_are_those_of_the_rule",
)
@dataclass(frozen=True)
class Iava(Weighted):
    """Contrasts the answer with that to the visual tokens alone which the question makes less of.

    Of each sample's attention to its visual tokens, as shares, a is that of the position right behind the last
    picture, which knows nothing of the question, and b that of the last position of the prompt. A token is irrelevant
    where a is above its mean by `high`, and a - b above its mean by `falling` standard deviations. The logits become
    (1 + alpha) l - alpha l', where l' sees no other visual tokens.

    Attributes:
        alpha: weight of the contrast.
        beta: tokens less than this times as probable as the favourite are ruled out; 0 rules nothing out.
        high: standard deviations above the mean attention without the question.
        falling: standard deviations above the mean of what the question takes away.
        layers: decoder layers whose attention counts, their mean; None takes all.
    """

    grouping: ClassVar[Grouping] = "sample"
    high: float = 1.0
    falling: float = 1.0
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("high", self.high)
        check_weight("falling", self.falling)

    def _where(self, facts: Facts) -> tuple[int, ...]:
        return facts.attending if self.layers is None else check_layers("layers", self.layers, facts.depth)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=[Attention(layer, rows) for layer in self._where(facts) for rows in ("after", "last")])

    def negative(self, facts: Facts) -> Tokens:
        return Tokens(partial(self.irrelevant, layers=self._where(facts)))

    def irrelevant(self, visuals: Visuals, layers: Sequence[int]) -> Selection:
        """The irrelevant tokens of each sample, by the attention of some layers."""
        before, asked = (
            torch.stack([visuals.attention(layer, rows) for layer in layers]).mean(0) for rows in ("after", "last")
        )
        return Selection(irrelevant_tokens(before, asked, visuals.valid, self.high, self.falling))


def irrelevant_tokens(before: Tensor, asked: Tensor, valid: Tensor, high: float, falling: float) -> Tensor:
    """Which tokens are irrelevant.

    Args:
        before, asked: float32 (G, M), the attention of each token before the question is read, and after.
        valid: bool (G, M).
        high, falling: as in `Iava`.

    Returns:
        bool (G, M).
    """
    before, asked = (_shares(attention, valid) for attention in (before, asked))
    return _above(before, valid, high) & _above(before - asked, valid, falling) & valid


def _shares(attention: Tensor, valid: Tensor) -> Tensor:
    attention = attention * valid
    return attention / attention.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def _above(values: Tensor, valid: Tensor, deviations: float) -> Tensor:
    """bool (G, M): values above their group's mean by so many standard deviations."""
    count = valid.sum(1, keepdim=True).clamp(min=1)
    off = values - (values * valid).sum(1, keepdim=True) / count
    return off > deviations * ((off.square() * valid).sum(1, keepdim=True) / count).sqrt()
