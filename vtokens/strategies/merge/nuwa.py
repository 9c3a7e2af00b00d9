"""Nüwa: spatial anchors from every small square, which gather what is near and alike; then the question chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.core.ranks import rank_in
from vtokens.strategies.average import early, late
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layer, check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention, Saliency
from vtokens.strategies.views.squares import places
from vtokens.strategies.views.visuals import Visuals

_GOES_ON = 1 / 7
"""How much of the first stage the second one leaves, as in the release: 112 and 16 for an average of 64."""
_SIDE = 2
"""Cells along one side of a square."""


@register(
    "nuwa",
    paper="Nüwa, arXiv:2602.02951",
    venue="ICLR 2026",
    evidence="text",
    shown="tests/strategies/test_nuwa.py::test_anchors_and_what_they_gather_are_those_of_loops",
)
@dataclass(frozen=True)
class Nuwa(Strategy):
    """Keeps the most salient cells of every 2 x 2 square, lets them gather what is near and alike, then asks the text.

    Of each square as many cells are candidates as are needed, and the most salient candidates are anchors. An anchor
    becomes x_k + sum_j w_kj x_j, w_kj = max(0, cos_kj) max(0, 1 - d_kj / r), over their sum, j the other cells of its
    frame and d their distance in cells; the most salient anchors stay as they are. Before `layer` those anchors stay
    that the last position of the prompt attends to most.

    Attributes:
        keep: share or count per picture, on average over the decoder's layers.
        reach: r squared, in cells.
        guarded: from which quantile of the anchors' saliency on they gather nothing.
        layer: decoder layer of the second stage, 1 to depth - 1; None: half of the depth, or the next one behind a
            layer with attention; 0: there is none, and `keep` is what the first leaves.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
    """

    keep: Keep = 0.25
    reach: float = 280.0
    guarded: float = 0.55
    layer: int | None = None
    positions: Literal["original", "compact"] = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("guarded", self.guarded)
        if self.reach <= 0:
            raise ValueError(f"reach={self.reach!r} is out of range: a squared distance in cells, above 0, is allowed")

    def _layer(self, facts: Facts) -> int:
        if self.layer is not None:
            return self.layer
        middle = max(1, facts.depth // 2)
        return next((layer for layer in facts.behind_attending if layer >= middle), middle)

    def needs(self, facts: Facts) -> Needs:
        layer, compact = check_layer("layer", self._layer(facts), facts.depth), self.positions == "compact"
        if not layer:
            return Needs(signals=(Saliency(),), compact=compact, blends=True)
        return Needs(signals=(Saliency(), Attention(layer - 1, "last")), layer=(layer,), compact=compact, blends=True)

    def at_prompt(self, visuals: Visuals) -> Selection:
        counts, depth = visuals.budgets(self.keep), visuals.observed.depth
        if self.layer != 0:
            counts = early(self, visuals, counts, self.layer or max(1, depth // 2), _GOES_ON)
        saliency, valid = visuals.saliency(), visuals.valid
        place = places(visuals, _SIDE)
        rank = rank_in(place[..., 3], saliency, valid)
        # As many of each square as it takes to fill the budget.
        squares = ((rank == 0) & valid).sum(1, keepdim=True)
        limit = on_device(counts, valid.device)[:, None]
        deep = (limit + squares - 1) // squares.clamp(min=1)
        behind = torch.finfo(torch.float32).max / 4
        keep = visuals.best(torch.where(rank < deep, saliency, saliency - behind), counts).keep
        whole = [count == there for count, there in zip(counts, visuals.counts, strict=True)]
        weights = self._gathered(visuals.tokens, saliency, place, keep, valid, counts, whole)
        return Selection(keep, counts, weights=weights)

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        return visuals.best(visuals.attention(index - 1, "last"), late(self, visuals, index))

    def _gathered(
        self,
        tokens: Tensor,
        saliency: Tensor,
        place: Tensor,
        keep: Tensor,
        valid: Tensor,
        counts: tuple[int, ...],
        whole: list[bool],
    ) -> Tensor:
        """float32 (G, K, M): how much of each token goes into each anchor; none where the `whole` group stays."""
        total, most = keep.shape[1], max(1, *counts)
        own = torch.arange(total, device=keep.device).expand(keep.shape)
        where = own.masked_fill(~keep, total).sort(1).values[:, :most]
        there, at = where < total, where.clamp(max=total - 1)
        unit = normalize(tokens.detach().float(), dim=-1)
        like = unit.gather(1, at[..., None].expand(-1, -1, unit.shape[2])) @ unit.transpose(1, 2)
        anchors = place.gather(1, at[..., None].expand(-1, -1, 4))
        apart = (anchors[:, :, None, 1:3] - place[:, None, :, 1:3]).float().square().sum(3).sqrt()
        beside = (anchors[:, :, None, 0] == place[:, None, :, 0]) & valid[:, None]
        weight = like.clamp(min=0) * (1 - apart / self.reach**0.5).clamp(min=0) * beside
        score = saliency.gather(1, at)
        bound = _quantile(score.masked_fill(~there, torch.inf), on_device(counts, at.device), self.guarded)
        still = (score >= bound) | on_device(whole, at.device)[:, None]
        weight = weight.masked_fill(still[..., None], 0)
        weight = weight / (weight.sum(2, keepdim=True) + 1e-8)
        return weight.scatter(2, at[..., None], 1.0)


def _quantile(scores: Tensor, counts: Tensor, share: float) -> Tensor:
    """float32 (G, 1): a quantile of the first `counts` of the rising scores of each row, linear between two of them."""
    ordered, at = scores.sort(1).values, share * (counts - 1).clamp(min=0).float()
    low = at.floor().long()
    high = torch.minimum(low + 1, (counts - 1).clamp(min=0))
    below, above = ordered.gather(1, low[:, None]), ordered.gather(1, high[:, None])
    return torch.lerp(below, above, (at - low)[:, None])
