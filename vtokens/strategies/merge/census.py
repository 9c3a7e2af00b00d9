"""census: kept tokens are means of clusters and count for their members, by itself or behind any pruner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.kernels import TIE, farthest_point
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.visuals import Visuals

_COSINES = 1 << 26
"""Cosines held at once: 256 MiB."""


@register("census")
@dataclass(frozen=True)
class Census(Strategy):
    """Keeps tokens that are far apart, each the mean of those nearest to it, which attention sees as that many.

    The first pick is the token least like the mean direction of its picture, each further one the token least like
    (cosine) those picked; every other token goes into the pick most like it. In each later attention a kept token's
    score gets share * log(how many it stands for).

    Written without `keep` behind a pruner, as in "cls(keep=0.1)+census", it picks nothing itself: what that pruner
    drops goes into the token most like it of those that it kept. What the pruner has merged itself stays as it merged
    it, and counts where it went.

    Attributes:
        keep: share or count per picture. None: it acts on the pruner written before it; where there is none, 0.1.
        share: of the logarithm, 1 counts every member in full, 0 merges alone.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    alone: ClassVar[Keep | None] = 0.1
    keep: Keep | None = None
    share: float = 0.75
    positions: Literal["original", "compact"] = "original"
    of: Literal["left", "original"] = "left"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("share", self.share)

    def check(self, facts: Facts) -> None:
        if self.keep is None and (self.positions, self.of) != ("original", "left"):
            raise ValueError(
                f"positions={self.positions!r}, of={self.of!r}: census without keep leaves both to the pruner before "
                "it: give them there, as 'cls(keep=0.1, positions=compact)+census', or give census a keep"
            )

    def needs(self, facts: Facts) -> Needs:
        return Needs(sizes=self.share > 0, blends=True, compact=self.positions == "compact")

    def at_prompt(self, visuals: Visuals) -> Selection:
        counts = visuals.budgets(self.alone if self.keep is None else self.keep, self.of)  # type: ignore[arg-type]
        keep = farthest_point(visuals.tokens, visuals.valid, counts, _strangest(visuals), objective="kcenter")
        return self.at_selection(visuals, Selection(keep, counts))

    def at_selection(self, visuals: Visuals, selection: Selection) -> Selection:
        keep, counts = selection.keep & visuals.valid, selection.counts
        if counts is None:  # what the engine would ask the device for next
            counts = tuple(keep.sum(1).tolist())
        if max(counts, default=0) == 0 or counts == visuals.counts:
            return selection
        slot = torch.arange(keep.shape[1], device=keep.device)
        slots = torch.where(keep, slot, len(slot)).sort(1).values[:, : max(counts)]
        real, slots = slots < len(slot), slots.clamp(max=len(slot) - 1)
        rank, placed = _placed(selection, keep, real)
        rank = torch.where(placed, rank, _nearest(visuals.tokens, slots, real))
        size = visuals.sizes.masked_fill(~visuals.valid, 0)
        total = size.new_zeros(slots.shape).scatter_add(1, rank, size)
        share = size / total.gather(1, rank).clamp(min=1e-9)
        settled = torch.zeros_like(total).scatter_add(1, rank, share * placed)
        weights, into = _merged(selection, keep, slots, rank, placed, share, settled)
        sizes = total if self.share else None
        return Selection(keep, counts, weights=weights, into=into, sizes=sizes, share=self.share)


def _strangest(visuals: Visuals) -> Tensor:
    """int64 (G,): of each group the token least like (cosine) the mean direction of all."""
    states = visuals.tokens.float()
    compared = visuals.valid & torch.linalg.vector_norm(states, dim=-1).isfinite()  # NaN has no direction
    unit = torch.nn.functional.normalize(states, dim=-1).masked_fill(~compared[..., None], 0)
    alike = (unit @ unit.sum(1)[..., None])[..., 0].masked_fill(~compared, torch.inf)
    # Two tokens are equally unlike their mean: the earlier one is taken, whatever rounding makes of it.
    tokens = visuals.valid.sum(1, keepdim=True)
    return (alike <= alike.amin(1, keepdim=True) + TIE * tokens).long().argmax(1)


def _nearest(tokens: Tensor, slots: Tensor, real: Tensor) -> Tensor:
    """int64 (G, M): which of K kept tokens, at `slots` (G, K) where `real`, each of `tokens` (G, M, D) is most like."""
    unit = torch.nn.functional.normalize(tokens.float(), dim=-1)
    kept = unit.gather(1, slots[..., None].expand(-1, -1, unit.shape[2])).transpose(1, 2)
    step = max(1, _COSINES // slots.numel())
    parts = [(part @ kept).masked_fill(~real[:, None], -torch.inf).argmax(2) for part in unit.split(step, 1)]
    return torch.cat(parts, 1)


def _placed(selection: Selection, keep: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """int64 (G, M), the number of the kept token that a pruner made each token part of, and bool (G, M), if it did.

    Where it goes into several, that of the largest weight.
    """
    number, weights, into = (keep.cumsum(1) - 1).clamp(min=0), selection.weights, selection.into
    if weights is None:
        return number, keep
    if into is None:
        most, rank = weights.masked_fill(~real[..., None], 0).max(1)
    else:
        slot = into.view(*keep.shape, -1)
        stays = keep.gather(1, slot.flatten(1)).view_as(slot)
        most, at = weights.view_as(slot).masked_fill(~stays, 0).max(2, keepdim=True)
        most, rank = most[..., 0], number.gather(1, slot.gather(2, at)[..., 0])
    return torch.where(keep, number, rank), keep | (most > 0)


def _merged(
    selection: Selection, keep: Tensor, slots: Tensor, rank: Tensor, placed: Tensor, share: Tensor, settled: Tensor
) -> tuple[Tensor, Tensor | None]:
    """`weights` and `into` of clusters: what the pruner placed as it was weighed, the others by their share of all.

    Args:
        slots: int64 (G, K), of kept tokens.
        rank: int64 (G, M), the kept token that each goes into.
        placed: bool (G, M), by the pruner.
        share: float32 (G, M), of its cluster.
        settled: float32 (G, K), the share of each cluster that the pruner placed.
    """
    weights, into = selection.weights, selection.into
    if weights is None:
        return share, slots.gather(1, rank)
    fresh = share.masked_fill(placed, 0)
    if into is None:
        return (weights.float() * settled[..., None]).scatter_add(1, rank[:, None], fresh[:, None]), None
    slot, number = into.reshape(*keep.shape, -1).clone(), (keep.cumsum(1) - 1).clamp(min=0)
    part = settled.gather(1, number.gather(1, slot.flatten(1))).view_as(slot) * weights.reshape_as(slot)
    part = part.masked_fill(~placed[..., None], 0)
    part[..., 0] += fresh
    slot[..., 0] = torch.where(placed, slot[..., 0], slots.gather(1, rank))
    return part.view_as(weights), slot.view_as(into)
