"""PruneVid: what stands still becomes one frame, density peaks stand for the rest, and the question chooses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from vtokens.core.budget import Keep, budget, share_of
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.core.ranks import rank
from vtokens.kernels import density_peaks, nearest_centre
from vtokens.strategies.checks import check_layer, check_range
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention
from vtokens.strategies.video_pruner import VideoPruner
from vtokens.strategies.views.frames import Frames
from vtokens.strategies.views.visuals import Visuals

_NEIGHBOURS = 7
"""How many neighbours density looks at."""


@register(
    "prunevid",
    paper="PruneVid, arXiv:2412.16117",
    venue="ACL 2025 Findings",
    evidence="text",
    shown="tests/strategies/test_prunevid.py::test_merging_as_worked_out_by_hand",
)
@dataclass(frozen=True)
class PruneVid(VideoPruner):
    """Merges what stands still in a segment and what is alike in a frame, then keeps what the question attends to.

    Frames are clustered and made contiguous; places whose tokens are alike all through a segment (mean pairwise
    cosine) become their mean. Of these, and of the others of each frame, density peaks stay, as the means of what is
    nearest to them. Before decoder layer `layer`, the tokens stay that any head gives most attention in any row of the
    text behind the video. Ours: exact counts.

    Attributes:
        keep: share, of the tokens a video had at first, or count that is left in the end; images stay whole.
        alike: tau of the paper.
        segments: clusters of frames, as a share of the frames.
        alpha: the share of the merged tokens that stays from `layer`: merging leaves keep / alpha. None: the square
            root of the share that stays, so that both steps drop alike (the paper's 0.4 at keep=0.16); 1.0: merging
            leaves all of it, and nothing is dropped later.
        layer: 1 to depth - 1; None: at 10/32 of the depth, or the next one behind a layer with attention.
    """

    keep: Keep = 0.16
    alike: float = 0.8
    segments: float = 0.25
    alpha: float | None = None
    layer: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("alike", self.alike, -1, 1)
        for name in ("segments", "alpha"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name}={value!r} is out of range: above 0, up to 1 is allowed")

    def needs(self, facts: Facts) -> Needs:
        if self.alpha == 1.0:
            return Needs()
        middle = max(1, facts.depth * 10 // 32)
        layer = (
            next((layer for layer in facts.behind_attending if layer >= middle), middle)
            if self.layer is None
            else self.layer
        )
        check_layer("layer", layer, facts.depth, first=1)
        return Needs(signals=(Attention(layer - 1, "text", pool="max"),), layer=(layer,))

    def counts(self, visuals: Visuals, frames: Frames) -> list[int]:
        """What merging leaves of each picture."""
        found = list(visuals.counts)
        for row in frames.rows:
            whole = visuals.layout.pictures[row].tokens
            share = share_of(whole, self.keep)
            merged = share**0.5 if self.alpha is None else min(1.0, share / self.alpha)
            found[row] = min(found[row], max(budget(whole, self.keep), budget(whole, merged)))
        return found

    def at_layer(self, visuals: Visuals, index: int) -> Selection | None:
        frames = visuals.frames
        if frames is None:
            return None
        counts = list(visuals.counts)
        for row in frames.rows:
            counts[row] = min(counts[row], budget(visuals.layout.pictures[row].tokens, self.keep))
        if counts == list(visuals.counts):
            return None
        return visuals.best(visuals.attention(index - 1, "text", pool="max"), counts)

    def chosen(self, visuals: Visuals, frames: Frames, counts: list[int]) -> Selection:
        tokens, real = frames.gather(visuals.tokens).float(), frames.real
        _, length, places = real.shape
        part = self._segments(tokens, frames)
        by_part = part[..., None].expand(-1, -1, places)  # a segment's place in (V, S, P); there are T of them at most
        size = torch.zeros_like(real, dtype=torch.float32).scatter_add(1, by_part, real.float())
        deep = by_part[..., None].expand_as(tokens)
        sums = torch.zeros_like(tokens).scatter_add(1, deep, normalize(tokens, dim=-1)).square().sum(-1)
        still = (size > 1) & ((sums - size) / (size * (size - 1)) > self.alike)
        mean = torch.zeros_like(tokens).scatter_add(1, deep, tokens) / size.clamp(min=1)[..., None]

        # What stands still stands where it is first seen.
        number = torch.arange(length, device=real.device)[None, :, None]
        first = torch.full_like(by_part, length).scatter_reduce(1, by_part, number.where(real, length), "amin")
        static = still.gather(1, by_part) & real
        own = torch.arange(length * places, device=real.device).view(1, length, places)
        at_first = first * places + own[:, :1]  # (V, S, P), in T * P
        first_seen = torch.where(static, at_first.gather(1, by_part), own)
        head, moving = static & (first_seen == own), real & ~static

        stay = on_device([counts[row] for row in frames.rows], real.device)
        distinct = still.sum((1, 2)) + moving.sum((1, 2))
        share = (stay / distinct.clamp(min=1)).clamp(max=1)[:, None, None]
        of_still, of_moving = _order(mean, still, share), _order(tokens, moving, share)
        order = torch.where(head, of_still.gather(1, by_part), of_moving)
        # Repeats of what stands still come last of all, and stay what they are.
        order = order.masked_fill(~(head | moving), places + 1)
        found = visuals.best(frames.scatter(-order, -visuals.valid.float()), counts)
        kept = frames.gather(found.keep)
        centre = still & kept.flatten(1).gather(1, at_first.clamp(max=length * places - 1).flatten(1)).view_as(still)
        near = nearest_centre(mean, still, centre)
        of_still = at_first.gather(2, near.clamp(min=0)).masked_fill(near < 0, -1).gather(1, by_part)
        near = nearest_centre(tokens, moving, moving & kept)
        of_moving = (near + own[:, :, :1]).masked_fill(near < 0, -1)
        into = torch.where(static, of_still, torch.where(moving, of_moving, own))
        joins = (into >= 0) & ~(kept & static & ~head)  # a repeat that stays is no part of a mean
        return frames.merged(found, *_weighed(first_seen, into, head | moving, joins))

    def _segments(self, tokens: Tensor, frames: Frames) -> Tensor:
        """int64 (V, T): the segment of each frame, ascending from 0."""
        there, many = frames.real.any(2), frames.real.sum(2).clamp(min=1)
        mean = tokens.sum(2) / many[..., None]
        count = on_device([max(1, int(t * self.segments)) for t, _ in frames.shapes], mean.device)
        centre = there & (rank(-density_peaks(mean, there, _NEIGHBOURS)) < count[:, None])
        cluster = _contiguous(nearest_centre(mean, there, centre), there)
        return pad(cluster[:, 1:] != cluster[:, :-1], (1, 0)).cumsum(1)


def _order(tokens: Tensor, valid: Tensor, share: Tensor) -> Tensor:
    """float32 (V, S, P): the place of each token in its set's order as a centre, from the set's part of what stays.

    Taken from the least on, sets get their parts by largest remainders.
    """
    return rank(-density_peaks(tokens, valid, _NEIGHBOURS)) - valid.sum(2, keepdim=True) * share


def _contiguous(cluster: Tensor, there: Tensor) -> Tensor:
    """int64 (V, T): of each cluster the longest run stays; other frames, and runs of one, join the longer neighbour.

    The earlier one where both are as long; 0 where there is none. Frames that are not `there` stand behind all others.
    """
    length = cluster.shape[1]
    run = pad(cluster[:, 1:] != cluster[:, :-1], (1, 0)).cumsum(1)
    size = torch.zeros_like(run).scatter_add(1, run, torch.ones_like(run)).gather(1, run)
    at = cluster.clamp(min=0)
    longest = torch.zeros_like(run).scatter_reduce(1, at, size.masked_fill(~there, 0), "amax").gather(1, at)
    stays = there & (size == longest) & (size > 1)
    number = torch.arange(length, device=cluster.device)
    right = torch.where(stays, number, length).flip(1).cummin(1).values.flip(1)  # the next frame that stays
    has_right, right = right < length, right.clamp(max=length - 1)
    ahead, other = size.gather(1, right).masked_fill(~has_right, 0), cluster.gather(1, right).masked_fill(~has_right, 0)
    found = [torch.where(stays[:, 0], cluster[:, 0], other[:, 0])]
    behind = torch.ones_like(found[0])
    for frame in range(1, length):
        last = found[-1]
        leaves = stays[:, frame - 1] & (behind < ahead[:, frame])
        found.append(torch.where(stays[:, frame], cluster[:, frame], torch.where(leaves, other[:, frame], last)))
        behind = torch.where(found[-1] == last, behind + 1, 1)
    return torch.stack(found, 1)


def _weighed(first_seen: Tensor, into: Tensor, distinct: Tensor, joins: Tensor) -> tuple[Tensor, Tensor]:
    """(V, T * P): where each token goes, itself if it stays as it is, and how much of it."""
    first_seen, into, distinct, joins = (part.flatten(1) for part in (first_seen, into, distinct, joins))
    own = torch.arange(first_seen.shape[1], device=first_seen.device).expand_as(first_seen)
    into = torch.where(joins, into, own)
    repeats = torch.zeros_like(first_seen).scatter_add(1, first_seen, joins.long()).gather(1, first_seen).clamp(min=1)
    members = torch.zeros_like(first_seen).scatter_add(1, into, (joins & distinct).long()).gather(1, into).clamp(min=1)
    return into, torch.where(joins, 1 / (repeats * members), 1.0)
