"""VFlowOpt: the least important tokens of every square become one, then two late stages drop by the same scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.core.ranks import falling_rank, rank_in
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layer
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Saliency
from vtokens.strategies.views.squares import places
from vtokens.strategies.views.visuals import Visuals

_DEPTHS = (9 / 28, 18 / 28)
"""Where the late stages are, as shares of the depth: before layers 9 and 18 of 28."""


@register(
    "vflowopt",
    paper="VFlowOpt, https://github.com/sihany077/VFlowOpt",
    venue="ICCV 2025",
    evidence="text",
    shown="tests/strategies/test_vflowopt.py::test_what_stays_and_what_it_becomes_are_those_of_loops",
)
@dataclass(frozen=True)
class VFlowOpt(Strategy):
    """Keeps salient tokens and one for each square of the others, and drops more by the same scores in the decoder.

    Of K tokens that the first stage leaves, one for each square of `side` x `side` cells is the mean of the square's
    least salient tokens, weighed by saliency, at the place of the most salient of them; the others are the most salient
    tokens of the picture. Before two later layers the most salient stay. How much each stage drops and how large
    squares are, `vtokens calibrate vflowopt` looks for.

    Attributes:
        keep: share or count per picture, on average over the decoder's layers.
        side: cells along one side of a square.
        middle: the share of the first stage's tokens that goes on from the first of two later layers.
        last: the share of them that goes on from the second; no more than `middle`.
        layers: these layers, 1 to depth - 1; None: at 9/28 and 18/28 of the depth.
    """

    keep: Keep = 0.25
    side: int = 9
    middle: float = 1.0
    last: float = 0.6
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side < 1:
            raise ValueError(f"side={self.side!r} is out of range: an int from 1 on is allowed")
        if not 1 >= self.middle >= self.last > 0:
            raise ValueError(
                f"middle={self.middle!r} and last={self.last!r} are not allowed: two falling shares in (0, 1], as "
                "1.0 and 0.6, are"
            )
        if self.layers is not None and len(self.layers) != 2:
            raise ValueError(f"layers={self.layers!r} is not allowed: two layers, as (9, 18), are")

    def _layers(self, depth: int) -> tuple[int, int]:
        if self.layers is not None:
            return self.layers[0], self.layers[1]
        first = max(1, round(_DEPTHS[0] * depth))
        return first, max(first + 1, round(_DEPTHS[1] * depth))

    def needs(self, facts: Facts) -> Needs:
        layers = self._layers(facts.depth)
        for layer in layers:
            check_layer("layers", layer, facts.depth, first=1)
        if layers[0] >= layers[1]:
            raise ValueError(f"layers={layers!r} is not allowed: the second stage comes behind the first")
        return Needs(signals=(Saliency(),), layer=layers, blends=True)

    def at_prompt(self, visuals: Visuals) -> Selection:
        asked, depth, notes = visuals.budgets(self.keep), visuals.observed.depth, visuals.observed.notes(self)
        early, late = self._layers(depth)
        scale = depth / (early + self.middle * (late - early) + self.last * (depth - late))
        counts = tuple(min(there, _whole(own * scale)) for own, there in zip(asked, visuals.counts, strict=True))
        notes.update(dict(enumerate(zip(asked, counts, strict=True))))
        saliency, valid = visuals.saliency(), visuals.valid
        square = places(visuals, self.side)[..., 3]
        # Squares are counted on the device: how many of the best stay whole follows there from counts of the host.
        many = ((rank_in(square, saliency, valid) == 0) & valid).sum(1, keepdim=True)
        limit = on_device(counts, valid.device)[:, None]
        whole = on_device([own == there for own, there in zip(counts, visuals.counts, strict=True)], valid.device)
        rank = falling_rank(saliency, valid)
        best = valid & ((rank < limit - many) | whole[:, None])
        rest = valid & ~best
        heads = rest & (rank_in(torch.where(rest, square, -1), saliency, valid) == 0)
        step = 4.0 * valid.shape[1]
        order = -rank.float() + step * (2 * best.float() + heads.float())
        keep = visuals.best(order, counts).keep
        into, weights = _shares(saliency, square, rest, heads, keep)
        return Selection(keep, counts, weights=weights, into=into)

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        depth, notes = visuals.observed.depth, visuals.observed.notes(self)
        early, late = self._layers(depth)
        counts = []
        for group, left in enumerate(visuals.counts):
            asked, first = notes[group]
            # What the layers behind need on average, so that all of them together have what was asked for.
            middle = max(first * self.middle, (asked * depth - first * early) / (depth - early))
            middle = min(first, _whole(middle))
            last = _whole((asked * depth - first * early - middle * (late - early)) / (depth - late))
            counts.append(min(left, middle if index == early else max(min(asked, 1), last)))
        return visuals.best(visuals.saliency(), counts)


def _whole(value: float) -> int:
    """`value` to the nearest count, a half up, and at least 1 where it is above 0."""
    return 0 if value == 0 else max(1, math.floor(value + 0.5))


def _shares(saliency: Tensor, square: Tensor, rest: Tensor, heads: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """(G, M): the token that each goes into, the head of its square for those of the `rest` that are dropped, and how
    much of it, by saliency."""
    own = torch.arange(rest.shape[1], device=rest.device).expand(rest.shape)
    joins = rest & (heads | ~keep)
    # Numbers of squares are made small, below M, since they count those of the whole picture.
    same = square.masked_fill(~joins, -1)
    order = same.argsort(dim=1, stable=True)
    sorted_ = same.gather(1, order)
    number = torch.nn.functional.pad((sorted_[:, 1:] != sorted_[:, :-1]).long(), (1, 0)).cumsum(1)
    part = torch.zeros_like(number).scatter_(1, order, number)
    head = torch.zeros_like(own).scatter_reduce(1, part, own.masked_fill(~heads, -1), "amax", include_self=False)
    weight = saliency.clamp(min=0).masked_fill(~joins, 0) + torch.finfo(torch.float32).tiny
    total = torch.zeros_like(weight).scatter_add(1, part, weight.masked_fill(~joins, 0))
    into = torch.where(joins, head.gather(1, part), own)
    return into, torch.where(joins, weight / total.gather(1, part).clamp(min=torch.finfo(torch.float32).tiny), 1.0)
