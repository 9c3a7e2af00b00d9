"""EVS: the tokens of a video that differ most from what stood at their place one frame before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.kernels import TIE
from vtokens.strategies.registry import register
from vtokens.strategies.video_pruner import VideoPruner
from vtokens.strategies.views.frames import Frames
from vtokens.strategies.views.visuals import Visuals


@register(
    "evs",
    paper="Efficient Video Sampling, arXiv:2510.14624",
    evidence="text",
    shown="tests/strategies/test_evs.py::test_as_counted_by_hand",
)
@dataclass(frozen=True)
class Evs(VideoPruner):
    """Keeps the first frame of a video, and of the others what changed most since the frame before.

    A token's score is 1 - cosine(x[t, p], x[t-1, p]), that of the first frame is above all; all frames are ranked
    together. Ours: differences within rounding are none, so that a batch keeps what each video does alone, and a token
    whose place lost its last one to an earlier strategy counts as changed.

    Attributes:
        keep: 1 - q of vLLM, a share or count per video; never fewer tokens than a frame has. Images stay whole.
    """

    def least(self, frames: int, places: int) -> int:
        return places

    def score(self, visuals: Visuals, frames: Frames) -> Tensor:
        tokens = frames.gather(visuals.tokens).float()
        alike = torch.cosine_similarity(tokens[:, 1:], tokens[:, :-1], dim=-1)
        changed = (1 - alike).masked_fill(alike > 1 - TIE, 0)
        changed = changed.masked_fill(~frames.real[:, :-1], torch.inf)
        return torch.cat([torch.full_like(tokens[:, :1, :, 0], torch.inf), changed], 1)
