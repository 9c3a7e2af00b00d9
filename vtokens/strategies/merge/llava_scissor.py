"""LLaVA-Scissor: tokens that are alike, over chains of others, become one, first in frames and then in the video."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.on_device import on_device
from vtokens.core.ranks import rank
from vtokens.kernels import TIE, linked, spanning_tree
from vtokens.strategies.checks import check_range
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.video_pruner import VideoPruner
from vtokens.strategies.views.frames import Frames
from vtokens.strategies.views.visuals import Visuals

_ROOM = 1 << 24
"""Most cosines held at once, in elements: 64 MiB."""


@register(
    "llava_scissor",
    paper="LLaVA-Scissor, arXiv:2506.21862",
    evidence="text",
    shown="tests/strategies/test_llava_scissor.py::test_as_worked_out_by_hand",
)
@dataclass(frozen=True)
class LlavaScissor(VideoPruner):
    """Keeps a token for each connected component of alike tokens, and lets every token join the nearest of these.

    In each frame, tokens whose cosine is above `alike` are connected, and components become their means. Of these means
    over all frames the most alike are connected, until as many components are left as `keep` says. Their means are the
    representatives; each original token joins the most similar one: (representative + sum) / (n + 1).

    Attributes:
        keep: share or count per video, met exactly; images stay whole.
        alike: tau of the paper in frames. Where so few components would be left that the budget is not met, only the
            most alike tokens are connected.
    """

    alike: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("alike", self.alike, -1, 1)

    def chosen(self, visuals: Visuals, frames: Frames, counts: list[int]) -> Selection:
        tokens, real = frames.gather(visuals.tokens).float(), frames.real
        videos, length, places = real.shape
        units, flat, valid = normalize(tokens, dim=-1), tokens.flatten(1, 2), real.flatten(1)
        stay = on_device([counts[row] for row in frames.rows], real.device)[:, None]

        tree = spanning_tree(units.flatten(0, 1), real.flatten(0, 1))
        weight = tree.weight.view(videos, -1)
        on = (rank(-weight) < valid.sum(1, keepdim=True) - stay) & (weight > self.alike)
        part = linked(tree, on.view_as(tree.weight)).view(videos, length, places)
        part = (part + places * torch.arange(length, device=part.device)[:, None]).flatten(1)
        mean, size = _means(flat, valid, part)

        there = size > 0
        tree = spanning_tree(normalize(mean, dim=-1), there)
        on = (rank(-tree.weight) < there.sum(1, keepdim=True) - stay) & tree.weight.isfinite()
        whole = linked(tree, on)
        mean, parts = _means(mean, there, whole)

        root, kept = whole.gather(1, part), parts > 0
        found = visuals.best(frames.scatter(kept.view_as(real).float(), visuals.valid.float()), counts)
        most = max(counts[row] for row in frames.rows)
        near = _nearest(units.flatten(1, 2), normalize(mean, dim=-1), kept, most)
        joined = torch.zeros_like(size).scatter_add(1, near, valid.float()) + 1
        share = 1 / (size.gather(1, part) * parts.gather(1, root) * joined.gather(1, root))
        weights = torch.stack([share, 1 / joined.gather(1, near)], 2).masked_fill(~valid[..., None], 0)
        return frames.merged(found, torch.stack([root, near], 2), weights)


def _means(tokens: Tensor, valid: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (V, N, D) and the number (V, N) of the tokens of each part, at the place that the part is called by."""
    size = torch.zeros_like(valid, dtype=torch.float32).scatter_add(1, part, valid.float())
    total = tokens.masked_fill(~valid[..., None], 0)
    total = torch.zeros_like(tokens).scatter_add(1, part[..., None].expand_as(tokens), total)
    return total / size.clamp(min=1)[..., None], size


def _nearest(units: Tensor, centres: Tensor, there: Tensor, most: int) -> Tensor:
    """int64 (V, N): the place of the centre, one of the up to `most` that are `there` (V, N), most like each token.

    Of equally similar ones the first.
    """
    videos, total, _ = units.shape
    at = torch.arange(total, device=units.device)
    where = at.masked_fill(~there, total).sort(1).values[:, :most]
    safe = where.clamp(max=total - 1)
    targets = centres.gather(1, safe[..., None].expand(-1, -1, centres.shape[2])).transpose(1, 2)
    found, step = [], max(1, _ROOM // (videos * where.shape[1]))
    for begin in range(0, total, step):
        like = units[:, begin : begin + step] @ targets
        like = like.masked_fill(like > 1 - TIE, 1).masked_fill((where == total)[:, None], -torch.inf)
        found.append(torch.where(like == like.amax(2, keepdim=True), where[:, None], total).amin(2))
    return torch.cat(found, 1).clamp(max=total - 1)
