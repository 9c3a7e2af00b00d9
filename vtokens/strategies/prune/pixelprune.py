"""PixelPrune: tokens whose pixels repeat a neighbour's are dropped before the vision tower (predictive coding)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.bases import Merger
from vtokens.strategies.checks import check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.pixel_grid import PixelGrid, Repeats

Metric = Literal["max", "mae", "rmse"]


@register(
    "pixelprune",
    paper="PixelPrune, arXiv:2604.00886",
    evidence="parity",
    shown="tests/strategies/test_pixelprune.py::test_the_release_shows_the_same_tokens",
)
@dataclass(frozen=True)
class PixelPrune(Merger):
    """Drops tokens before the vision tower whose pixels a neighbour predicts: flat areas of pages, screens and plots.

    Attributes:
        threshold: how far pixels may be from those that predict them; at 0 the pixels that stay tell all others.
        metric: how far that is: the "max" over a token's pixels and colours, their mean ("mae") or root mean square.
        std: by which the processor divides pixels in [0, 1] (its image_std), so that `threshold` counts in these; 1
            counts in what the tower is given.
        positions: "original" leaves each token its number; "compact" closes the gaps.
    """

    threshold: float = 0.0
    metric: Metric = "max"
    std: float = 1.0
    positions: Literal["original", "compact"] = field(default="original", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("threshold", self.threshold)
        if not self.std > 0:
            raise ValueError(
                f"std={self.std!r} is out of range: a number above 0 is allowed, as the processor's image_std"
            )

    @property
    def unmerged(self) -> bool:
        return False

    def needs(self, facts: Facts) -> Needs:
        return Needs(pixels="repeats", compact=self.positions == "compact")

    def at_pixels(self, pixels: PixelGrid) -> Repeats:
        cells = pixels.cells.float()
        return Repeats(predicted(cells, self.threshold / self.std, self.metric) if self.threshold else repeated(cells))


def repeated(cells: Tensor) -> Tensor:
    """As `predicted` at threshold 0, for all tokens at once: what is equal to its prediction is equal to its anchor."""
    frames, high, wide = cells.shape[:3]
    own = torch.arange(high * wide, device=cells.device).view(1, high, wide).expand(frames, -1, -1)
    across = (cells[:, :, 1:] == cells[:, :, :-1]).all(-1)  # (T, h, w - 1): equal to its left neighbour
    down = (cells[:, 1:] == cells[:, :-1]).all(-1)  # (T, h - 1, w): equal to the one above
    left = torch.nn.functional.pad(across, (1, 0))
    above = torch.nn.functional.pad(down, (0, 0, 1, 0))
    # Corner equals left neighbour and not the one above: an edge runs down, and the one above predicts.
    upright = torch.zeros_like(left)
    upright[:, 1:, 1:] = down[:, :, :-1] & ~across[:, :-1]
    upright[:, :, 0] = True
    into = torch.where(upright, torch.where(above, own - wide, own), torch.where(left, own - 1, own)).flatten(1)
    for _ in range(math.ceil(math.log2(high + wide))):  # each round follows twice as many steps
        into = into.gather(1, into)
    return into.view(frames, high, wide)


def predicted(cells: Tensor, threshold: float, metric: Metric) -> Tensor:
    """int64 (T, h, w): for each token the place in its frame of the one whose pixels stand in for its own.

    Tokens are looked at in raster order, each against one of three neighbours as they were put back: C B above, A to
    the left. It is B if C is like A and not like B, else A (the edge detector of LOCO-I, JPEG-LS); the first row has A
    alone, the first column B. Who is not like what predicts it stays, and stands for itself, so that no token is
    further than `threshold` from what stands in for it. One step a diagonal, whose tokens depend on earlier ones alone.

    Args:
        cells: float (T, h, w, D), pixels of each token.
        threshold: the largest distance at which two are alike.
        metric: which distance.
    """
    frames, high, wide = cells.shape[:3]
    flat, rows = cells.flatten(1, 2), torch.arange(high, device=cells.device)
    into = torch.arange(high * wide, device=cells.device).repeat(frames, 1)

    def pixels(at: Tensor) -> Tensor:
        return flat.gather(1, at[..., None].expand(-1, -1, flat.shape[-1]))

    for diagonal in range(1, high + wide - 1):
        y = rows[max(0, diagonal - wide + 1) : min(high, diagonal + 1)]
        at = y * wide + diagonal - y
        first_row, first_column = y.eq(0), y.eq(diagonal)
        a = into[:, torch.where(first_column, at - wide, at - 1)]
        b = into[:, torch.where(first_row, at - 1, at - wide)]
        c = into[:, torch.where(first_row, at - 1, torch.where(first_column, at - wide, at - wide - 1))]
        corner, left, above = pixels(c), pixels(a), pixels(b)
        edge = _alike(corner, left, threshold, metric) & ~_alike(corner, above, threshold, metric)
        source = torch.where(edge, b, a)
        like = _alike(flat[:, at], torch.where(edge[..., None], above, left), threshold, metric)
        into[:, at] = torch.where(like, source, at)
    return into.view(frames, high, wide)


def _alike(one: Tensor, other: Tensor, threshold: float, metric: Metric) -> Tensor:
    """bool (...): whether pixels (..., D) are within `threshold` of each other."""
    apart = (one - other).abs()
    if metric == "max":
        return apart.amax(-1) <= threshold
    return (apart.mean(-1) if metric == "mae" else apart.square().mean(-1).sqrt()) <= threshold
