"""Uniform selection: an even grid over each picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vtokens.core.budget import Keep
from vtokens.core.on_device import on_device
from vtokens.core.picture import Picture
from vtokens.strategies.base import Strategy
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.visuals import Visuals


@register("uniform")
@dataclass(frozen=True)
class Uniform(Strategy):
    """Keeps an even grid of each picture's tokens, exactly as many as the budget says.

    Views (AnyRes thumbnail and tiles) and video frames share the budget by their size. After another strategy
    has pruned, it keeps every n-th of what is left.

    Attributes:
        keep: share or count per picture.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    keep: Keep = 0.25
    of: Literal["left", "original"] = "left"

    def at_prompt(self, visuals: Visuals) -> Selection:
        counts = visuals.budgets(self.keep, self.of)
        chosen = np.zeros(visuals.valid.shape, dtype=bool)
        for row, (picture, left, keep) in enumerate(zip(visuals.layout.pictures, visuals.counts, counts, strict=True)):
            chosen[row, :left] = even_grid(picture, keep) if left == picture.tokens else _even(left, keep)
        return Selection(on_device(chosen, visuals.hidden.device), counts)


def even_grid(picture: Picture, keep: int) -> np.ndarray:
    """bool (tokens,): exactly `keep` tokens of a picture, spread evenly over its views, frames, rows and columns."""
    frames = [(h, w) for t, h, w in picture.grids for _ in range(t)]
    ends = np.floor(np.cumsum([h * w for h, w in frames]) * keep / picture.tokens + 0.5).astype(int)
    shares = np.diff(ends, prepend=0)
    planes = [_even_frame(h, w, int(share)) for (h, w), share in zip(frames, shares, strict=True)]
    first = np.cumsum([0, *(t for t, _, _ in picture.grids)])  # the number of each view's first frame
    inside = picture.view >= 0
    number = first[picture.view[inside]] + picture.t[inside]
    # Tokens may stand in another order than row by row: tiles follow each other.
    chosen = np.zeros(len(number), dtype=bool)
    for which, plane in enumerate(planes):
        own = number == which
        chosen[own] = plane[picture.y[inside][own], picture.x[inside][own]]
    return chosen


def _even_frame(height: int, width: int, keep: int) -> np.ndarray:
    """bool (height, width) with `keep` cells: a square grid, or a staggered one where a square one has no room."""
    out = np.zeros((height, width), dtype=bool)
    if keep == 0:
        return out
    # Above one cell in four a square grid must drop whole rows and columns next to whole ones that stay. Twice as many
    # rows, every other one shifted by half a step (a checkerboard at one half), leaves no such gaps.
    staggered = 4 * keep > height * width
    fewest = math.ceil(keep / width)
    rows = min(height, max(fewest, round(math.sqrt((1 + staggered) * keep * height / width))))
    for number, row in enumerate(np.flatnonzero(_even(height, rows))):
        share = (number + 1) * keep // rows - number * keep // rows
        out[row] = _even(width, share, (0.25 + 0.5 * (number % 2)) if staggered else 0.5)
    return out


def _even(count: int, keep: int, phase: float = 0.5) -> np.ndarray:
    """bool (count,): `keep` of `count` positions, evenly spaced, the first one `phase` of a step in."""
    out = np.zeros(count, dtype=bool)
    out[((np.arange(keep) + phase) * count / max(keep, 1)).astype(int)] = True
    return out
