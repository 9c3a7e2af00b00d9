"""A training-free stand-in for SD-RPN: regions that stand out in relative attention, each cut out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vtokens.core.facts import Facts
from vtokens.recipes.looking.asking import Asking, Box
from vtokens.recipes.looking.attended import GENERAL, layer_of, looks, relative
from vtokens.recipes.looking.base import Looked, Recipe, function
from vtokens.recipes.looking.registry import recipe
from vtokens.strategies import Strategy
from vtokens.strategies.checks import check_share

Cells = tuple[int, int, int, int]
"""(left, top, right, bottom) on the grid of patches, right and bottom not included."""


@recipe(
    "sdrpn",
    paper="SD-RPN, arXiv:2509.16944",
    venue="ICLR 2026",
    evidence="stand-in",
    shown="tests/recipes/test_sdrpn.py::test_regions_are_those_of_a_flood_fill",
)
@dataclass(frozen=True)
class SdRpn(Recipe):
    """Cuts out up to `most` regions that stand out in relative attention, and shows them beside the picture.

    SD-RPN trains a small head on such regions; this takes them as they are. Relative attention is blurred (a Gaussian
    of three cells, sigma 1), cells above `threshold` of the greatest are joined to regions across sides and corners,
    and those of a single cell go; each is grown to at least three cells a side. Three passes. Where no region is left,
    the picture alone is asked about.

    Attributes:
        layer: the decoder layer, 0 to depth - 2; by default as deep as that of `crop`.
        threshold: the share of the greatest value above which a cell belongs to a region.
        most: regions that are shown, those with most attention.
        general: the general question.
    """

    layer: int | None = None
    threshold: float = 0.15
    most: int = 3
    general: str = GENERAL

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("threshold", self.threshold)
        if self.most < 1:
            raise ValueError(f"most={self.most} is not allowed: at least 1 region")

    def watches(self, facts: Facts) -> tuple[Strategy, ...]:
        return looks(facts, (layer_of(facts, self.layer),))

    def answer(self, asking: Asking) -> Looked:
        layer, frame = layer_of(asking.facts, self.layer), asking.frame()
        [attention] = relative(asking, (layer,), self.general)
        smooth = blurred(attention)
        found = regions(smooth, self.threshold)
        found.sort(key=lambda one: -smooth[one[1] : one[3], one[0] : one[2]].sum())
        boxes = tuple(in_pixels(one, attention.shape, frame) for one in found[: self.most])
        said = asking.ask(images=(asking.image, *(asking.image.crop(box) for box in boxes)))
        return self.looked(asking, said, boxes, attention=attention, layer=layer)


def blurred(values: np.ndarray) -> np.ndarray:
    """(h, w) under a Gaussian of 3 x 3 cells with sigma 1; the border repeats itself outwards."""
    side = np.exp(-0.5 * np.array([1.0, 0.0, 1.0]))
    side /= side.sum()
    rows, columns = values.shape
    padded = np.pad(values.astype(float), 1, mode="edge")
    across = sum(side[i] * padded[:, i : i + columns] for i in range(3))
    return np.asarray(sum(side[i] * across[i : i + rows] for i in range(3)))


def regions(values: np.ndarray, threshold: float) -> list[Cells]:
    """The boxes of cells above `threshold` of the greatest, joined by sides and corners, in raster order.

    Regions of one cell are left out, others are grown to at least three cells a side, as far as the grid goes.
    """
    rows, columns = values.shape
    inside = values > threshold * values.max()
    labels = np.where(inside, np.arange(1, inside.size + 1).reshape(inside.shape), 0)
    while True:  # each cell takes the largest label around it, until a region has one
        padded = np.pad(labels, 1)
        around = [padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
        spread = np.where(inside, np.max(around, axis=0), 0)
        if (spread == labels).all():
            break
        labels = spread
    found = []
    names, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    for label, _, size in sorted(zip(names, first, sizes, strict=True), key=lambda one: one[1]):
        if label and size > 1:
            y, x = np.nonzero(labels == label)
            left, right = _grown(int(x.min()), int(x.max()) + 1, columns)
            top, bottom = _grown(int(y.min()), int(y.max()) + 1, rows)
            found.append((left, top, right, bottom))
    return found


def _grown(low: int, high: int, end: int, least: int = 3) -> tuple[int, int]:
    """At least `least` cells from `low` to `high`, grown to both sides in turn within 0 and `end`."""
    while high - low < min(least, end):
        if low > 0:
            low -= 1
        if high - low < least and high < end:
            high += 1
    return low, high


def in_pixels(cells: Cells, grid: tuple[int, ...], frame: tuple[float, float, float, float]) -> Box:
    """The pixels of a box of cells."""
    left, top, right, bottom = frame
    wide, high = (right - left) / grid[1], (bottom - top) / grid[0]
    x0, y0, x1, y1 = cells
    return round(left + x0 * wide), round(top + y0 * high), round(left + x1 * wide), round(top + y1 * high)


sdrpn = function(SdRpn)
