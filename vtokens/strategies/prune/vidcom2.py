"""VidCom2: frames unlike the rest of the video keep more tokens, each those least like it and the video."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.ranks import rank
from vtokens.strategies.registry import register
from vtokens.strategies.video_pruner import VideoPruner
from vtokens.strategies.views.frames import Frames
from vtokens.strategies.views.visuals import Visuals

_WIDTHS = tuple(2.0**k for k in range(-3, 2))
_TEMPERATURE = 0.01


@register(
    "vidcom2",
    paper="VidCom2, arXiv:2505.14454",
    venue="EMNLP 2025",
    evidence="text",
    shown="tests/strategies/test_vidcom2.py::test_as_counted_by_hand",
)
@dataclass(frozen=True)
class VidCom2(VideoPruner):
    """Keeps the tokens of a video that are least like its centre and their frame's; unlike frames keep more.

    In the half of the channels that vary least, tokens of unit length are compared with the mean of the video and with
    that of their frame, by Gaussians of five widths. A frame's share is keep * (1 + softmax(-likeness / 0.01) - mean),
    at most 1 and at least a token; what rounding leaves is added or dropped over all frames, as vLLM does.

    Attributes:
        keep: 1 - q of vLLM, a share or count per video; never fewer tokens than frames. Images stay whole.
    """

    def least(self, frames: int, places: int) -> int:
        return frames

    def score(self, visuals: Visuals, frames: Frames) -> Tensor:
        real, tokens = frames.real, frames.gather(visuals.tokens).float()
        mean = _mean(tokens, real, (1, 2))
        spread = _mean((tokens - mean).square(), real, (1, 2)).flatten(1)
        still = spread.argsort(dim=1, stable=True)[:, : max(1, spread.shape[1] // 2)]
        units = normalize(tokens.gather(3, still[:, None, None].expand(*real.shape, -1)), dim=-1)
        to_video = _likeness(units, _mean(units, real, (1, 2)))
        likeness = to_video + _likeness(units, _mean(units, real, (2,)))

        tokens_left, there = real.sum(2), real.any(2)
        alike = _mean(to_video[..., None], real, (2,))[:, :, 0, 0].masked_fill(~there, torch.inf)
        share = (-alike / _TEMPERATURE).softmax(1)
        keep = self.keep if isinstance(self.keep, float) else self.keep / tokens_left.sum(1, keepdim=True)
        share = keep * (1 + share - 1 / there.sum(1, keepdim=True))
        # torch.round takes the even neighbour of a half, as vLLM's does.
        own = (share.clamp(max=1) * tokens_left).round().clamp(min=1)
        likeness = likeness.masked_fill(~real, torch.inf)
        chosen = rank(likeness) < own[..., None]
        # One order over the video: what frames chose comes first. Ranks are exact, sums of scores would round.
        return -(rank(likeness.flatten(1)).view_as(chosen) + (~chosen) * real[0].numel()).float()


def _mean(values: Tensor, real: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The mean of (V, T, P, C), 0 where not `real`, over `dims`, which stay as 1."""
    values = values.masked_fill(~real[..., None], 0)
    return values.sum(dims, keepdim=True) / real.sum(dims, keepdim=True).clamp(min=1)[..., None]


def _likeness(units: Tensor, centre: Tensor) -> Tensor:
    """(V, T, P): Gaussians of the distance of units (V, T, P, C) to a centre, summed over widths."""
    distance = (units - centre).square().sum(-1)
    return torch.stack([(-distance / (2 * width)).exp() for width in _WIDTHS]).sum(0)
