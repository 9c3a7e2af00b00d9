"""DoLa: what the model says in the end is held against what an early layer would have said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layer, check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.logits import Logits

MANY = 40
"""Up to so many layers the candidates are every second one of a half, above that of 20 layers."""


@register(
    "dola",
    paper="DoLa, arXiv:2309.03883",
    venue="ICLR 2024",
    evidence="text",
    shown="tests/strategies/test_dola.py::test_answers_are_those_of_the_formula",
)
@dataclass(frozen=True)
class Dola(Strategy):
    """Contrasts the answer with what an early decoder layer would say, without a second prompt.

    Log-probabilities become l - l', where l' comes from the states that enter the layer, among several candidates,
    whose distribution is furthest from the final one; each token of each sample has its own. What the layers between
    have added is taken for what the model knows.

    Attributes:
        layers: the candidates: "low" every second layer of the first half, for long answers, "high" of the second, for
            short ones, or their numbers; 0 is entered by embeddings.
        beta: tokens less than this times as probable as the favourite are ruled out; 0 rules nothing out.
        normed: early states go through the norm behind the last layer; the release gives them to the output layer
            as they are.
    """

    layers: Literal["low", "high"] | tuple[int, ...] = "low"
    beta: float = 0.1
    normed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("beta", self.beta)
        if self.layers == ():
            raise ValueError(
                "layers=() names no decoder layer: 'low', 'high' or a tuple of ints such as (0, 2) is allowed"
            )

    def check(self, facts: Facts) -> None:
        for layer in () if isinstance(self.layers, str) else self.layers:
            check_layer("layers", layer, facts.depth)

    def needs(self, facts: Facts) -> Needs:
        return Needs(early=self.prepare(facts), norm=self.normed, once=True)

    def prepare(self, facts: Facts) -> Sequence[int]:
        """The candidates, ascending."""
        return candidates(self.layers, facts.depth, facts.tied)

    def at_logits(self, logits: Logits) -> Tensor:
        final = logits.positive.log_softmax(-1)
        furthest = premature = None
        for layer in logits.prepared:
            early = logits.early(layer, self.normed).log_softmax(-1)
            distance = divergence(final, early)
            if furthest is None or premature is None:
                furthest, premature = distance, early
            else:
                premature = torch.where((distance > furthest)[..., None], early, premature)
                furthest = distance.maximum(furthest)
        assert premature is not None
        return logits.cut(final - premature, self.beta)


def candidates(layers: str | Sequence[int], depth: int, tied: bool) -> tuple[int, ...]:
    """The early layers that are compared, by the numbers of the states that enter them.

    Args:
        layers: as in `Dola`.
        depth: decoder layers.
        tied: the output layer shares its weights with the embeddings, so that these would say their own token: the
            first two layers are left out.
    """
    if not isinstance(layers, str):
        return tuple(sorted(set(layers)))
    half, first = depth // 2, min(2, max(0, depth - 1)) if tied else 0
    if layers == "high":
        return tuple(range(half if depth <= MANY else depth - MANY // 2, depth, 2))
    last = half if depth <= MANY else MANY // 2
    return tuple(range(first, last, 2)) or (min(first, depth - 1),)


def divergence(final: Tensor, early: Tensor) -> Tensor:
    """(...): how far two distributions are apart, by log-probabilities (..., V): half of the Kullback-Leibler
    divergences of their mean from each."""
    mean = torch.logaddexp(final, early) - math.log(2)
    return 0.5 * (mean.exp() * (2 * mean - final - early)).sum(-1)
