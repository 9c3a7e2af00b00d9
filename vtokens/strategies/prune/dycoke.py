"""DyCoke's temporal merging: of every four frames the first is whole, the others keep what is new."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.on_device import on_device
from vtokens.core.ranks import rank
from vtokens.kernels import TIE
from vtokens.strategies.registry import register
from vtokens.strategies.video_pruner import VideoPruner
from vtokens.strategies.views.frames import Frames
from vtokens.strategies.views.visuals import Visuals

_BACK = (0, 1, 2, 1)
"""How many frames before it lies the frame that each of a group of four is compared with."""


@register(
    "dycoke",
    paper="DyCoke, arXiv:2411.15024",
    venue="CVPR 2025",
    evidence="text",
    shown="tests/strategies/test_dycoke.py::test_as_counted_by_hand",
)
@dataclass(frozen=True)
class DyCoke(VideoPruner):
    """Keeps every fourth frame of a video whole, and of the three behind it the tokens least like an earlier frame.

    In a group of four, the second and the third are compared with the first, the fourth with the third, place by place
    (cosine of x[t, p] and x[t', p]); each keeps the same number of its least similar tokens. Ours: a last group of
    fewer frames is treated as far as it goes (the release leaves half of it alone, and loses an odd last frame), and a
    place that an earlier strategy emptied is like nothing. Choosing cached keys for each new token is not here.

    Attributes:
        keep: share or count per video, met exactly; never fewer tokens than the whole frames have. The default is the
            paper's k = 0.7: (1 + 3 * (1 - k)) / 4. Images stay whole.
    """

    keep: Keep = 0.475

    def least(self, frames: int, places: int) -> int:
        return -(-frames // 4) * places

    def score(self, visuals: Visuals, frames: Frames) -> Tensor:
        tokens, real = frames.gather(visuals.tokens).float(), frames.real
        number = torch.arange(real.shape[1], device=real.device)
        other = number - on_device(_BACK, real.device)[number % 4]
        alike = torch.cosine_similarity(tokens, tokens[:, other], dim=-1)
        # Within rounding nothing is new, so that a batch keeps what each video does alone.
        alike = alike.masked_fill(alike > 1 - TIE, 1).masked_fill(~real[:, other], -torch.inf)
        order = rank(alike.masked_fill(~real, torch.inf))
        return (-order.float()).masked_fill((number % 4 == 0)[:, None], torch.inf)
