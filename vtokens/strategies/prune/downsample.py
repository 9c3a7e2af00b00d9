"""Downsample: the picture made smaller, so that vision tower and decoder both get fewer tokens; the honest baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from vtokens.core.budget import Keep, budget
from vtokens.core.facts import Facts
from vtokens.strategies.bases import Merger
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.pixel_grid import PixelGrid, Resized


@register("downsample")
@dataclass(frozen=True)
class Downsample(Merger):
    """Shows the vision tower each picture resized to the tokens `keep` allows: the baseline a pruner has to beat.

    Attributes:
        keep: share of the tokens of each picture, tile and frame; a count is no size, and is refused.
        positions: "original" leaves each token the number of the upper left of the tokens that it stands for; "compact"
            numbers tokens, and the text behind them, one after the other, as those of a smaller picture are.
    """

    keep: Keep = 0.25
    positions: Literal["original", "compact"] = field(default="original", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.keep, int):
            raise ValueError(
                f"keep={self.keep} counts tokens, and pictures, tiles and frames are resized each by itself: a share "
                "in (0, 1] is allowed, such as 0.25"
            )

    @property
    def unmerged(self) -> bool:
        return False

    def needs(self, facts: Facts) -> Needs:
        return Needs(pixels="resize", compact=self.positions == "compact")

    def at_pixels(self, pixels: PixelGrid) -> Resized:
        return Resized(*smaller(*pixels.grid[1:], self.keep))


def smaller(high: int, wide: int, keep: Keep) -> tuple[int, int]:
    """Rows and columns of the largest grid of at most `keep` of the tokens that has nearly their shape (high, wide)."""
    most = budget(high * wide, keep)
    rows = min(high, most, max(1, round(math.sqrt(most * high / wide))))
    return rows, min(wide, most // rows)
