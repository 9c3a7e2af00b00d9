"""Squares of neighbouring cells, which strategies that care for where things are choose among."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from vtokens.core.picture import Picture
from vtokens.strategies.views.visuals import Visuals


def places(visuals: Visuals, side: int) -> Tensor:
    """int64 (G, M, 4): frame, row and column of each token of a picture, and the number of its square.

    Frames are those of videos, and views of images; squares are `side` x `side` cells of one frame, fewer at edges.
    Arbitrary on padding. Groups are pictures.
    """
    return visuals.at_cells([_of(picture, side) for picture in visuals.layout.pictures])


def _of(picture: Picture, side: int) -> np.ndarray:
    """int64 (positions, 4) of one picture; 0 where no feature stands."""
    grids = np.array(picture.grids)
    inside, view = picture.view >= 0, np.maximum(picture.view, 0)
    frames = np.cumsum([0, *grids[:, 0]])[:-1]
    high, wide = -(-grids[:, 1] // side), -(-grids[:, 2] // side)
    first = np.cumsum([0, *(grids[:, 0] * high * wide)])[:-1]
    square = first[view] + (picture.t * high[view] + picture.y // side) * wide[view] + picture.x // side
    found = np.stack([frames[view] + picture.t, picture.y, picture.x, square], 1)
    return np.where(inside[:, None], found, 0).astype(np.int64)
