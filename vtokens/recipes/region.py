"""Where a prompt looks in a picture: the attention that its end pays in one layer, and the window with most of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from PIL import Image

from vtokens.core.facts import Facts
from vtokens.core.picture import Picture
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention
from vtokens.strategies.views.visuals import Visuals


@dataclass(frozen=True)
class Region:
    """A region of a picture that a prompt looks at.

    Attributes:
        box: (left, top, right, bottom), its pixels.
        crop: they.
        attention: float (h, w), the attention of each patch that decided.
    """

    box: tuple[int, int, int, int]
    crop: Image.Image
    attention: np.ndarray

    @staticmethod
    def of(picture: Picture, scores: np.ndarray, share: float, seen: Image.Image) -> Region:
        """The window that gets most attention.

        Args:
            picture: as it was shown.
            scores: float (positions,), the attention of each.
            share: the window's width and height as shares of the picture's.
            seen: the image, as the processor saw it.

        Raises:
            ValueError: the picture was cut into tiles, and nobody knows where they lay.
        """
        attention = plane(picture, scores)
        box = _box(attention, share, seen.size)
        return Region(box, seen.crop(box), attention)


@dataclass(frozen=True)
class Look(Strategy):
    """Notes the attention that each visual token gets from the end of the prompt in one layer, and drops nothing."""

    name: ClassVar[str] = "look"
    layer: int
    seen: list[tuple[Picture, np.ndarray]] = field(default_factory=list, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Attention(self.layer),), layer=(self.layer + 1,))

    def at_layer(self, visuals: Visuals, index: int) -> Selection | None:
        scores, cells = visuals.attention(self.layer).cpu().numpy(), visuals.cells.cpu().numpy()
        for number, picture in enumerate(visuals.layout.pictures):
            full = np.zeros(len(picture))
            count = visuals.counts[number]
            full[cells[number, :count]] = scores[number, :count]
            self.seen.append((picture, full))
        return None


def plane(picture: Picture, scores: np.ndarray) -> np.ndarray:
    """float (h, w): scores of the positions of a picture's last view, the detailed one, on its grid.

    Raises:
        ValueError: the picture was cut into tiles, and nobody knows where they lay.
    """
    picture.check_drawn()
    number = len(picture.grids) - 1
    inside = picture.view == number
    plane = np.zeros(picture.grids[number][1:])
    plane[picture.y[inside], picture.x[inside]] = scores[inside]
    return plane


def window_sums(values: np.ndarray, high: int, wide: int) -> np.ndarray:
    """The sums over all windows of `high` rows and `wide` columns, by the row and column that each begins in."""
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return np.asarray(sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide])


def _box(attention: np.ndarray, share: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels of the window with the greatest sum of attention; of equal ones the first in raster order."""
    rows, columns = attention.shape
    high, wide = (min(n, max(1, round(n * share))) for n in (rows, columns))
    windows = window_sums(attention, high, wide)
    top, left = np.unravel_index(windows.argmax(), windows.shape)
    width, height = size
    return (
        int(left) * width // columns,
        int(top) * height // rows,
        -(-(int(left) + wide) * width // columns),
        -(-(int(top) + high) * height // rows),
    )
