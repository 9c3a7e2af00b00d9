"""QuoTA: frames that show what a question is about keep more tokens, as smaller grids of their features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from vtokens.core.budget import Keep, budget
from vtokens.recipes.scorers import Scorer
from vtokens.recipes.shrunk import axis, grid, quotas
from vtokens.strategies.selection import Selection
from vtokens.strategies.video_pruner import VideoPruner
from vtokens.strategies.views.frames import Frames
from vtokens.strategies.views.visuals import Visuals

Chances = tuple[float, ...]


@dataclass(frozen=True)
class Quota(VideoPruner):
    """Shrinks each frame of a video to a grid whose size follows the square of its chance (QuoTA, arXiv:2503.08689).

    A frame's quota is budget * chance^2 / sum, cut to a whole number; its grid has floor(sqrt(quota)) rows and columns,
    of frames that are not square in their proportions, and one more row where that fits. Features are resized
    bilinearly; a new one stands at the place whose middle is nearest to its own. Frames without a quota are gone.

    Ours: no frame grows, and what a whole one cannot use goes to the others; where the budget is too small for any
    quota, the best frames keep one token each; where no chance is left above 0, the rest share equally.

    Attributes:
        keep: share or count per video, which is not exceeded; what grids do not fill stays unspent. Images stay whole.
        chances: for each frame of tokens how likely it helps, 0 to 1, for all videos of a pass; or a tuple for each
            video, in order.
    """

    name: ClassVar[str] = "quota"
    chances: Chances | tuple[Chances, ...] = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in self._each(1):
            if not one or any(not 0 <= chance <= 1 for chance in one):
                raise ValueError(f"chances={one!r} are not allowed: one from 0 to 1 for each frame is")

    def at_prompt(self, visuals: Visuals) -> Selection | None:
        frames = visuals.frames
        if frames is None:
            return None
        every, counts = self._grids(visuals, frames), list(visuals.counts)
        videos, length, wide = frames.real.shape
        into = np.zeros((videos, length, wide, 4), dtype=np.int64)
        weights = np.zeros((videos, length, wide, 4), dtype=np.float32)
        stay = np.zeros((videos, length * wide), dtype=np.float32)
        for number, (row, grids) in enumerate(zip(frames.rows, every, strict=True)):
            counts[row] = sum(rows * columns for rows, columns in grids)
            ((t, h, w),) = visuals.layout.pictures[row].grids
            new = np.array(grids)
            (y, much_y), (x, much_x) = axis(h, new[:, 0]), axis(w, new[:, 1])
            place = y[:, :, None, :, None] * w + x[:, None, :, None, :] + wide * np.arange(t)[:, None, None, None, None]
            much = much_y[:, :, None, :, None] * much_x[:, None, :, None, :]
            into[number, :t, : h * w] = place.reshape(t, h * w, 4)
            weights[number, :t, : h * w] = much.reshape(t, h * w, 4)
            stay[number, place[much > 0]] = 1
        on = frames.real.device
        scores = frames.scatter(torch.from_numpy(stay).to(on).view_as(frames.real), visuals.valid.float())
        places, shares = torch.from_numpy(into).to(on), torch.from_numpy(weights).to(on)
        return frames.merged(visuals.best(scores, counts), places.flatten(1, 2), shares.flatten(1, 2))

    def _each(self, videos: int) -> list[Chances]:
        """The chances of each video."""
        nested = [one for one in self.chances if isinstance(one, tuple)]
        return nested or [tuple(one for one in self.chances if not isinstance(one, tuple))] * videos

    def _grids(self, visuals: Visuals, frames: Frames) -> list[list[tuple[int, int]]]:
        """Rows and columns of each frame of each video."""
        every = self._each(len(frames.rows))
        if len(every) != len(frames.rows):
            raise ValueError(
                f"chances are of {len(every)} videos, and the pass has {len(frames.rows)}: one tuple for each is "
                "needed (beams repeat a video), or one of plain numbers for all"
            )
        found = []
        for row, chances in zip(frames.rows, every, strict=True):
            shape, left = visuals.layout.pictures[row].grids, visuals.counts[row]
            if len(shape) != 1 or left != math.prod(shape[0]):
                raise ValueError(
                    f"quota resizes whole frames, and of a video of {shape} tokens {left} are left: it comes before "
                    "whatever else drops tokens"
                )
            t, h, w = shape[0]
            if len(chances) != t:
                together = len(chances) / t
                raise ValueError(
                    f"{len(chances)} chances for a video of {t} frames of tokens: one for each is needed"
                    + (f"; quota(together={math.ceil(together)}) makes them" if together > 1 else "")
                )
            sizes = quotas(chances, budget(left, self.keep), h * w)
            found.append([grid(size, h, w) for size in sizes])
        return found


def quota(frames: Sequence[Image.Image], query: str, scorer: Scorer, keep: Keep = 0.25, together: int = 1) -> Quota:
    """The strategy that gives each frame of a video tokens by how likely it helps to answer a question.

    Attach it for the pass that is shown these frames. QuoTA asks a language model first which objects the question is
    about, and then a second VLM whether a frame contains one; what is asked here is the scorer's matter.

    Args:
        frames: as the model is shown them, as `Clip.images()`.
        query: the question, or what is to be seen.
        scorer: gives confidences from 0 to 1, as `AnswerScorer`.
        keep: share or count per video, which is not exceeded.
        together: frames of the video that make one of tokens, 2 in Qwen's families; the best of them counts.

    Raises:
        ValueError: no confidence for each frame.
    """
    if together < 1:
        raise ValueError(f"together={together} is out of range: 1 or more frames make one of tokens")
    scores = [float(score) for score in scorer(frames, query)]
    if len(scores) != len(frames) or any(not 0 <= score <= 1 for score in scores):
        raise ValueError(
            f"the scorer gave {len(scores)} numbers for {len(frames)} frames: a confidence from 0 to 1 for each is "
            "needed, as AnswerScorer gives"
        )
    runs = range(0, len(scores), together)
    return Quota(keep, chances=tuple(max(scores[first : first + together]) for first in runs))
