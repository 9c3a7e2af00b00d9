"""Maps of where in a picture words are, laid over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vtokens.core.overlay import cells, enlarged, seen_image
from vtokens.core.warmth import captioned, side_by_side, warmed

if TYPE_CHECKING:
    from vtokens.calibrate.relevance import RelevanceMap


def drawn(maps: Sequence[RelevanceMap], image: Image.Image, processor: Any, scale: int | None = None) -> Image.Image:
    """Draw maps of one picture side by side, warm where scores are above the median of their map.

    All share a scale, which ends at the largest rise above a median: a text that nothing in the picture is like stays
    cold beside one that something is. Captions give the highest score and the median.

    Args:
        maps: of `vtokens.calibrate.relevance.relevance`; the most detailed view of each is drawn.
        image: the picture.
        processor: the model's, which may have cut the picture.
        scale: enlarge by this factor; default so that the longer side has about 480 pixels.

    Raises:
        ValueError: the picture was cut into tiles, and nobody knows where they lay.
    """
    for one in maps:
        one.picture.check_drawn()
    grids = [one.grid() for one in maps]
    middles = [float(np.median(grid)) for grid in grids]
    rise = max(float(grid.max()) - middle for grid, middle in zip(grids, middles, strict=True))
    pixels, parts = enlarged(seen_image(processor, image), scale), []
    for one, grid, middle in zip(maps, grids, middles, strict=True):
        row, column = cells(grid.shape, pixels)
        above = ((grid - middle) / (rise or 1.0)).clip(0, 1)
        # Adding 0 makes 0 of what is rounded to -0.
        caption = f"{one.text}: {round(float(grid.max()), 2) + 0:.2f}, median {round(middle, 2) + 0:.2f}"
        part = captioned(side_by_side([warmed(pixels, above[row][:, column])]), caption)
        parts.append(np.asarray(part, dtype=float))
    return side_by_side(parts)
