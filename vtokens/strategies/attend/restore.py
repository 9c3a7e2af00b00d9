"""RESTORE: what a pruner drops comes back as a few merged tokens, and attention makes up for size and distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, scaled_dot_product_attention

from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.heads import Heads
from vtokens.strategies.views.visuals import Visuals

_ROOM = 1 << 24
"""Cosines, or scores, held at once."""


@register(
    "restore",
    paper="RESTORE, arXiv:2606.01711",
    venue="ICML 2026",
    evidence="parity",
    shown="tests/strategies/test_restore.py::test_anchors_and_clusters_are_those_of_the_release",
)
@dataclass(frozen=True)
class Restore(Strategy):
    """Adds merged tokens to those that a pruner keeps, and corrects attention for their sizes and for distance.

    Written behind a pruner, as in "divprune(keep=0.05)+restore". Of what that drops, distinctive anchors are chosen:
    density (the sum of cosines with all of them) times one minus the largest cosine with a less dense one. Every other
    token goes into the anchor most like it; the mean of a cluster stands at the position of its median member, and
    attention sees it as many (log(size) on its score). While the prompt is read, log(2 - d) is added to every score, d
    being the mean cosine of the rotary angles between query and key, so that what is far away is not lost.

    Attributes:
        merged: merged tokens for each token that the pruner keeps; 1 is half of all, as in the release.
        distance: whether scores are corrected for distance.
        even: whether the first layer sees all visual tokens of a prompt as equally large, as in the release.
    """

    merged: float = 1.0
    distance: bool = True
    even: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.merged < math.inf:
            raise ValueError(f"merged={self.merged!r} is out of range: a number above 0 is allowed")

    def needs(self, facts: Facts) -> Needs:
        return Needs(sizes=True, attend=facts.attending, computes=True, once=True)

    def at_selection(self, visuals: Visuals, selection: Selection) -> Selection:
        if selection.weights is not None or selection.sizes is not None or selection.member is not None:
            raise ValueError(
                "restore merges what a pruner drops, and the one written before it merges that itself: write it behind "
                "one that only drops, as 'cls(keep=0.1)+restore'"
            )
        keep, counts = selection.keep & visuals.valid, selection.counts
        if counts is None:  # what the engine would ask the device for next
            counts = tuple(keep.sum(1).tolist())
        pairs = zip(counts, visuals.counts, strict=True)
        added = [min(int(self.merged * count + 0.5), whole - count) for count, whole in pairs]
        if max(added, default=0) == 0:
            return selection
        others = visuals.valid & ~keep
        units = normalize(visuals.tokens.float(), dim=-1).masked_fill(~others[..., None], 0)
        anchors = visuals.best(distinctiveness(units, others), added).keep & others
        slot = torch.arange(keep.shape[1], device=keep.device)
        places = torch.where(anchors, slot, len(slot)).sort(1).values[:, : max(added)]
        cluster = torch.where(others, nearest(units, places, anchors), -1)
        size, middle = medians(cluster, places.shape[1])
        real = places < len(slot)
        stay = keep | torch.zeros_like(keep).scatter(1, middle, True) & others
        own = middle.gather(1, cluster.clamp(min=0))
        # Where nothing is added there is no cluster, and `nearest` says 0 of every token: what is dropped is gone.
        goes = others & (on_device(added, keep.device) > 0)[:, None]
        count = size.gather(1, cluster.clamp(min=0)).clamp(min=1)
        total = [count + more for count, more in zip(counts, added, strict=True)]
        stay = torch.where(real.any(1, keepdim=True), stay, keep)
        sizes = torch.ones_like(keep, dtype=torch.float32).scatter(1, middle, torch.where(real, size, 1.0))
        sizes = torch.where(keep, 1.0, sizes)
        kept = torch.where(stay, slot, len(slot)).sort(1).values[:, : max(total)].clamp(max=len(slot) - 1)
        weights = torch.where(goes, 1 / count, keep.float())
        into = torch.where(goes, own, slot)
        return Selection(stay, tuple(total), weights=weights, into=into, sizes=sizes.gather(1, kept))

    def at_attend(self, heads: Heads) -> None:
        first = self.even and heads.layer == 0
        if heads.bias is None or not (first or (self.distance and heads.is_image_prefill)):
            return
        bias, past = heads.bias, heads.past
        visual = heads.visual & (torch.ones_like(heads.visual) if heads.valid is None else heads.valid)
        if first:
            many = torch.where(visual, bias.exp(), 0).sum(1, keepdim=True) / visual.sum(1, keepdim=True).clamp(min=1)
            bias = torch.where(visual, many.clamp(min=1e-9).log(), bias)
        at, width = torch.arange(heads.key.shape[2], device=bias.device), heads.query.shape[2]
        shut = at >= 0 if heads.valid is None else heads.valid[:, None]
        near = None
        if self.distance and heads.is_image_prefill and heads.turns is not None:
            near = heads.turns * visual.any(1)[:, None, None]  # prompts without a picture are left alone
        found, shared = [], heads.query.shape[1] != heads.key.shape[1]
        key, value = heads.key.float(), heads.value.float()
        step = max(1, _ROOM // (len(bias) * heads.query.shape[1] * len(at)))
        for begin in range(0, width, step):
            rows = torch.arange(begin, min(begin + step, width), device=bias.device)
            added = bias[:, None].expand(-1, len(rows), -1)
            if near is not None:
                far = (2 - near[:, rows] @ near.transpose(1, 2)).clamp(min=1).log()
                far = torch.where(visual.any(1)[:, None, None], far, 0)
                added = added + torch.nn.functional.pad(far, (past, 0))
            own = at == rows[:, None] + past  # a row of padding looks at itself
            added = added.masked_fill(~((at <= rows[:, None] + past) & shut | own), -torch.inf)
            query = heads.query[:, :, begin : begin + step].float()
            mask = added[:, None]
            found.append(scaled_dot_product_attention(query, key, value, mask, scale=heads.scaling, enable_gqa=shared))
        heads.output = torch.cat(found, 2).transpose(1, 2).to(heads.value.dtype)


def distinctiveness(units: Tensor, valid: Tensor) -> Tensor:
    """float32 (G, M): density times one minus the largest cosine with a less dense token, of unit vectors (G, M, D).

    The least dense of a group has none, and keeps its density. Cosines are held in blocks of rows.
    """
    density = (units @ units.sum(1)[..., None])[..., 0]
    step, most = max(1, _ROOM // max(1, valid.numel())), []
    for part, own in zip(units.split(step, 1), density.split(step, 1), strict=True):
        less = (density[:, None] < own[..., None]) & valid[:, None]
        most.append((part @ units.transpose(1, 2)).masked_fill(~less, -1).amax(2))
    alike = torch.cat(most, 1)
    return density * (1 - torch.where(alike == -1, 0, alike))


def nearest(units: Tensor, places: Tensor, anchors: Tensor) -> Tensor:
    """int64 (G, M): which of the anchors, at `places` (G, K), each of `units` (G, M, D) is most like."""
    real = places < units.shape[1]
    where = places.clamp(max=units.shape[1] - 1)
    chosen = units.gather(1, where[..., None].expand(-1, -1, units.shape[2])).transpose(1, 2)
    step = max(1, _ROOM // places.numel())
    parts = [(part @ chosen).masked_fill(~real[:, None], -torch.inf).argmax(2) for part in units.split(step, 1)]
    return torch.where(anchors, (anchors.cumsum(1) - 1).clamp(min=0), torch.cat(parts, 1))


def medians(cluster: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """float32 (G, K), the size of each cluster, and int64 (G, K), where its median member is, the earlier of two.

    Args:
        cluster: int64 (G, M), of each token; -1 if it is in none.
        most: K; a cluster without members has size 0, and its place is not to be looked at.
    """
    there = cluster >= 0
    numbers = torch.where(there, cluster, most)
    size = torch.zeros(len(cluster), most + 1, device=cluster.device)
    size = size.scatter_add(1, numbers, torch.ones_like(numbers, dtype=size.dtype))[:, :most]
    order = numbers.argsort(dim=1, stable=True)
    begin = size.cumsum(1) - size
    middle = (begin + ((size - 1) / 2).floor().clamp(min=0)).long().clamp(max=cluster.shape[1] - 1)
    return size, order.gather(1, middle)
