"""FastVID: a video cut into segments, whose salient tokens stay and whose others go into centres of a few frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.core.ranks import rank
from vtokens.kernels import density_peaks
from vtokens.strategies.checks import check_range
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Saliency
from vtokens.strategies.video_pruner import VideoPruner
from vtokens.strategies.views.frames import Frames
from vtokens.strategies.views.visuals import Visuals

_ROOM = 1 << 26
"""Most similarities held at once, in elements: 256 MiB."""


@register(
    "fastvid",
    paper="FastVID, arXiv:2503.11187",
    venue="NeurIPS 2025",
    evidence="text",
    shown="tests/strategies/test_fastvid.py::test_as_worked_out_by_hand",
)
@dataclass(frozen=True)
class FastVid(VideoPruner):
    """Keeps salient tokens of each frame, and merges the others of a segment into centres of every few frames.

    A video is cut where neighbouring frames are least alike. Each frame keeps its most salient tokens; in every
    `period`-th frame of a segment, counted from its end, density peaks of the others are centres. What is neither goes
    into the most similar centre of its segment: centre = w * centre + (1 - w) * mean, w = max(1 / (n + 1), own).

    Attributes:
        keep: share or count per video, met exactly; images stay whole.
        context: the share of what stays that are centres (d of the paper).
        segments: at least that many, of videos long enough (c).
        alike: frames whose cosine is below it are cut apart (tau).
        period: p.
        own: the least that a centre keeps of itself (beta).
    """

    context: float = 0.4
    segments: int = 8
    alike: float = 0.9
    period: int = 4
    own: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least, most in (("context", 0, 1), ("segments", 1, math.inf), ("alike", -1, 1), ("own", 0, 1)):
            check_range(name, getattr(self, name), least, most)
        if self.period < 1:
            raise ValueError(f"period={self.period} is out of range: 1 or more frames")

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(),))

    def chosen(self, visuals: Visuals, frames: Frames, counts: list[int]) -> Selection:
        stay = [counts[row] for row in frames.rows]
        # As in the release: each frame its part of what stays, of which `context`, cut off, waits for the centres.
        each = [n // t - int(n // t * self.context) for n, (t, _) in zip(stay, frames.shapes, strict=True)]
        pools = [n - t * s for n, s, (t, _) in zip(stay, each, frames.shapes, strict=True)]
        tokens, real = frames.gather(visuals.tokens).float(), frames.real
        salience = frames.gather(visuals.saliency()).masked_fill(~real, -torch.inf)
        salient = real & (rank(-salience) < _column(each, real)[..., None])
        rest = real & ~salient
        part, anchor, quota = self._parts(tokens, real, _column(pools, real))

        places = real.shape[2]
        peak = rank(-density_peaks(tokens, rest, 4)) - quota[..., None]
        centre = rest & anchor[..., None]
        # What stays first: salient tokens, centres up to the quota of their frame, then beyond it, then what is left.
        other = rank(-salience.flatten(1)).view_as(peak)
        order = torch.where(centre, 1 + (peak + real[0].numel()).clamp(min=0), 2 * real[0].numel() + places + 2 + other)
        found = visuals.best(frames.scatter(-order.masked_fill(salient, 0).float(), -visuals.valid.float()), counts)
        centre = centre & frames.gather(found.keep)
        into = _nearest(normalize(tokens, dim=-1), centre, part, max(stay))
        return frames.merged(found, *self._weighed(into, rest & ~frames.gather(found.keep), centre))

    def _parts(self, tokens: Tensor, real: Tensor, pool: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(V, T): the segment of each frame, whether it has centres, and how many."""
        there, number = real.any(2), torch.arange(real.shape[1], device=real.device)
        mean = tokens.masked_fill(~real[..., None], 0).sum(2) / real.sum(2).clamp(min=1)[..., None]
        alike = torch.cosine_similarity(mean[:, 1:], mean[:, :-1], dim=-1).masked_fill(~there[:, 1:], torch.inf)
        cut = ((rank(alike) < self.segments - 1) | (alike < self.alike)) & there[:, 1:]
        part = torch.nn.functional.pad(cut, (1, 0)).cumsum(1)
        same = (part[:, :, None] == part[:, None]) & there[:, :, None] & there[:, None]
        behind = (same & (number > number[:, None])).sum(2)
        anchor = there & (behind % self.period == 0)
        quota = pool * same.sum(2) // (there.sum(1, keepdim=True) * (same & anchor[:, None]).sum(2)).clamp(min=1)
        return part, anchor, torch.where(anchor, quota, 0)

    def _weighed(self, into: Tensor, goes: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """(V, T * P): where each token goes, itself if it stays, and how much of it."""
        goes, centre = goes.flatten(1), centre.flatten(1)
        own = torch.arange(goes.shape[1], device=goes.device).expand_as(into)
        goes, found = goes & (into < goes.shape[1]), goes | centre
        into = torch.where(goes, into, own)
        count = torch.zeros_like(into).scatter_add(1, into, found.long()).gather(1, into)
        keep = (1 / (count + 1)).clamp(min=self.own)
        mean = torch.where(found, (1 - keep) / count.clamp(min=1), 0.0)
        return into, torch.where(centre, keep + mean, torch.where(goes, mean, 1.0))


def _column(values: list[int], like: Tensor) -> Tensor:
    return on_device(values, like.device)[:, None]


def _nearest(units: Tensor, centre: Tensor, part: Tensor, most: int) -> Tensor:
    """int64 (V, T * P): the place of the centre of its segment that each of `units` (V, T, P, D) is most like.

    T * P where it has none; `most` is how many centres a video has at most.
    """
    videos, length, places, _ = units.shape
    total, at = length * places, torch.arange(length * places, device=units.device)
    where = at.masked_fill(~centre.flatten(1), total).sort(1).values[:, :most]
    inside, safe = where < total, where.clamp(max=total - 1)
    targets = units.flatten(1, 2).gather(1, safe[..., None].expand(-1, -1, units.shape[3])).transpose(1, 2)
    own = part.gather(1, safe // places).masked_fill(~inside, -1)
    found = []
    step = max(1, _ROOM // (videos * places * where.shape[1]))
    for frame in range(0, length, step):  # a matrix of all tokens with all centres would be too large
        like = units[:, frame : frame + step].flatten(1, 2) @ targets
        other = part[:, frame : frame + step].repeat_interleave(places, 1)[..., None] != own[:, None]
        best = like.masked_fill(other, -torch.inf).max(2)
        found.append(torch.where(best.values > -torch.inf, where.gather(1, best.indices), total))
    return torch.cat(found, 1)
