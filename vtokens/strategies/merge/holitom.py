"""HoliTom: windows of a video in which most stands still; what stands still is said once, in their first frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.core.ranks import rank
from vtokens.kernels import density_peaks, nearest_centre
from vtokens.strategies.checks import check_range
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Saliency
from vtokens.strategies.video_pruner import VideoPruner
from vtokens.strategies.views.frames import Frames
from vtokens.strategies.views.visuals import Visuals

_NEAR = 1e-3
"""A share of tokens this little above a whole number is that number."""


@register(
    "holitom",
    paper="HoliTom, arXiv:2505.21334",
    venue="NeurIPS 2025",
    evidence="text",
    shown="tests/strategies/test_holitom.py::test_as_worked_out_by_hand",
)
@dataclass(frozen=True)
class HoliTom(VideoPruner):
    """Averages what stands still over windows of frames; of the rest it keeps what the vision tower attends to.

    A place is static in a window if its cosine with the frame before is above `alike` in all of it; windows are those
    in which most tokens are saved, found by dynamic programming. Static tokens become their mean, in the first frame;
    of these density peaks stay, and the others go into the nearest: own * centre + (1 - own) * mean. Of all others the
    most salient of each frame stay. Ours: exact counts, 7 neighbours always; the merging inside the language model is
    not here (`holitom+fastv` prunes there).

    Attributes:
        keep: share or count per video, met exactly; images stay whole.
        alike: tau of the paper; 0.65 where a tenth is kept.
        own: what a centre keeps of itself (beta).
    """

    keep: Keep = 0.15
    alike: float = 0.8
    own: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("alike", self.alike, -1, 1)
        check_range("own", self.own, 0, 1)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(),))

    def chosen(self, visuals: Visuals, frames: Frames, counts: list[int]) -> Selection:
        tokens, real = frames.gather(visuals.tokens).float(), frames.real
        salience = frames.gather(visuals.saliency()).masked_fill(~real, -torch.inf)
        first, static = self._windows(tokens, real)
        _, length, places = real.shape
        own = torch.arange(length * places, device=real.device).view(1, length, places)
        home = torch.where(static, first[..., None] * places + own[:, 0], own).flatten(1)
        head = static & (home.view_as(real) == own)
        count = torch.zeros_like(home).scatter_add(1, home, torch.ones_like(home)).clamp(min=1)
        flat = tokens.flatten(1, 2)
        mean = torch.zeros_like(flat).scatter_add(1, home[..., None].expand_as(flat), flat) / count[..., None]
        mean = mean.view_as(tokens)

        stay = on_device([counts[row] for row in frames.rows], real.device)
        said = (real & ~static) | head
        share = (stay / said.sum((1, 2)).clamp(min=1)).clamp(max=1)[:, None, None]
        moving = real & ~static
        wanted = (moving.sum(2, keepdim=True) * share - _NEAR).ceil()
        order = rank(-salience.masked_fill(~moving, -torch.inf)) - wanted
        peaks = rank(-density_peaks(mean, head, 7)) - (head.sum(2, keepdim=True) * share).round()
        order = torch.where(head, peaks, order) + places + 1
        # Repeats of what stands still come last of all, and stay what they are.
        order = order.masked_fill(~said, 3 * places + 3)
        found = visuals.best(frames.scatter(-order, -visuals.valid.float()), counts)
        kept = frames.gather(found.keep)
        near = nearest_centre(mean, real, head & kept)
        near = torch.where(near < 0, near, near + own[:, :, :1]).flatten(1)
        into = torch.where((head & kept).flatten(1), own.flatten(1), near).gather(1, home)
        return frames.merged(found, *self._weighed(home, into, static, head & kept, kept))

    def _weighed(
        self, home: Tensor, into: Tensor, static: Tensor, centre: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(V, T * P): where each token goes, itself if it stays, and how much of it."""
        static, centre, kept = static.flatten(1), centre.flatten(1), kept.flatten(1)
        own, known = torch.arange(static.shape[1], device=home.device).expand_as(home), into >= 0
        goes = static & known & ~(kept & ~centre)  # a repeat that stays is no part of a mean
        into = torch.where(goes, into, own)
        repeats = torch.zeros_like(home).scatter_add(1, home, goes.long()).gather(1, home).clamp(min=1)
        heads = goes & (home == own) & ~centre
        members = torch.zeros_like(home).scatter_add(1, into, heads.long()).gather(1, into)
        keeps = torch.where(members > 0, self.own, 1.0)
        at_centre = centre.gather(1, home)
        weight = torch.where(at_centre, keeps, (1 - self.own) / members.clamp(min=1)) / repeats
        return into, torch.where(goes, weight, 1.0)

    def _windows(self, tokens: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (V, T): the first frame of each frame's window; bool (V, T, P): what stands still in it."""
        videos, length, places = real.shape
        alike = torch.cosine_similarity(tokens[:, 1:], tokens[:, :-1], dim=-1) > self.alike
        alike = torch.nn.functional.pad(alike & real[:, 1:] & real[:, :-1], (0, 0, 0, 1))
        number = torch.arange(length, device=real.device)
        # Up to which frame each place stands still, counted from each.
        until = torch.where(alike, length, number[:, None]).flip(1).cummin(1).values.flip(1)
        lasting = torch.zeros(videos, length, length + 1, device=real.device)
        lasting = lasting.scatter_add(2, until, real.float()).flip(2).cumsum(2).flip(2)[..., :length]
        gain = lasting * (number - number[:, None]).clamp(min=0)
        best, start = [gain.new_zeros(videos)], []  # before the first frame, then up to each
        for end in range(length):
            alone = best[-1]
            if end:
                # The shorter of equally good windows, and none rather than one that saves nothing.
                more = (torch.stack(best[:end], 1) + gain[:, :end, end]).flip(1)
                value, at = more.max(1)
                start.append(torch.where(value > alone, end - 1 - at, end))
                best.append(torch.maximum(value, alone))
            else:
                start.append(torch.zeros_like(alone, dtype=torch.long))
                best.append(alone)
        starts, first = torch.stack(start, 1), torch.zeros(videos, length, dtype=torch.long, device=real.device)
        last = first.clone()
        begin = torch.full((videos,), length, dtype=torch.long, device=real.device)
        close = begin
        for frame in reversed(range(length)):
            ends = begin > frame
            close = torch.where(ends, frame, close)
            begin = torch.where(ends, starts[:, frame], begin)
            first[:, frame], last[:, frame] = begin, close
        still = until.gather(1, first[..., None].expand(-1, -1, places)) >= last[..., None]
        return first, still & (last > first)[..., None] & real
