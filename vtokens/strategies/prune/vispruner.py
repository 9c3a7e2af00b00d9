"""VisPruner: salient tokens stay, and of the others what is left when duplicates are taken away in rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Saliency
from vtokens.strategies.views.visuals import Visuals

_ROUND = 8
"""Most tokens taken away in a round."""
_NEAREST = 32
"""Neighbours looked through before all tokens are."""


@register(
    "vispruner",
    paper="VisPruner, arXiv:2412.01818",
    venue="ICCV 2025",
    evidence="parity",
    shown="tests/strategies/test_vispruner.py::test_the_release_keeps_the_same_tokens",
)
@dataclass(frozen=True)
class VisPruner(Strategy):
    """Keeps the patches that [CLS] attends to most, and diverse ones among the others.

    floor(K * important) tokens stay for the attention they get. The others, in the order of attention, are halved into
    every second one and those in between; the up to eight of the first half that are most like (cosine) one of the
    second are dropped, survivors of the first half go in front of the second by falling likeness, and so on until K
    tokens are left in all. On towers without [CLS] the score is the attention that a patch receives.

    Attributes:
        keep: share or count per picture.
        important: the share of these that stay for their attention.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    keep: Keep = 0.25
    important: float = 0.5
    positions: Literal["original", "compact"] = "original"
    of: Literal["left", "original"] = "left"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("important", self.important)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(),), compact=self.positions == "compact")

    def at_prompt(self, visuals: Visuals) -> Selection:
        counts = visuals.budgets(self.keep, self.of)
        scores = visuals.saliency().masked_fill(~visuals.valid, -torch.inf)
        order, tokens = scores.argsort(dim=1, descending=True, stable=True), visuals.tokens
        keep = torch.zeros_like(visuals.valid)
        # Pictures one by one: how many rounds there are depends on the size of each.
        for group, (count, whole) in enumerate(zip(counts, visuals.counts, strict=True)):
            first = int(count * self.important)
            keep[group, order[group, :first]] = True
            rest = order[group, first:whole]
            keep[group, rest[distinct(tokens[group, rest], count - first)]] = True
        return Selection(keep, counts)


def distinct(tokens: Tensor, count: int) -> Tensor:
    """int64 (count,): which of some tokens (R, D) are left when the likest have been taken away in rounds."""
    left = torch.arange(len(tokens), device=tokens.device)
    if not count or count == len(left):
        return left[:count]
    units = normalize(tokens.float(), dim=-1)
    # Each round compares one half with the other, in an order of its own: cosines are worked out once for all rounds.
    like = units @ units.T
    nearest = _Nearest(like) if like.device.type == "cpu" else None
    while len(left) > count:
        one, other = left[::2], left[1::2]
        drop = min(_ROUND, len(left) - count, len(one))
        most = like.new_zeros(1)
        if len(other):
            most = like[one][:, other].amax(1) if nearest is None else nearest.most(one, other)
        stay = one[most.argsort(descending=True, stable=True)[drop:]]
        left = torch.cat([stay, other])
    return left


class _Nearest:
    """Of each token the others that are most like it, so that few cosines are read in a round."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        found = like.topk(min(_NEAREST, len(like)), dim=1)
        self._values, self._places = found.values, found.indices

    def most(self, one: Tensor, other: Tensor) -> Tensor:
        """float32: the largest cosine of each of `one` with any of `other`."""
        there = torch.zeros(len(self._like), dtype=torch.bool)
        there[other] = True
        most = self._values[one].masked_fill_(~there[self._places[one]], -torch.inf).amax(1)
        far = (most == -torch.inf).nonzero()[:, 0]  # all of their nearest are gone, or on their own side
        if len(far):
            most[far] = self._like[one[far]][:, other].amax(1)
        return most
