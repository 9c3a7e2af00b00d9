"""Squares of neighbouring cells, which strategies that care for where things are choose among."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vtokens.core.picture import Picture
from vtokens.strategies.views.visuals import Visuals


def places(visuals: Visuals, side: int) -> Tensor:
    """int64 (G, M, 4): frame, row and column of each token of a picture, and the number of its square.

    Frames are those of videos, and views of images; squares are `side` x `side` cells of one frame, fewer at edges.
    Arbitrary on padding. Groups are pictures.
    """
    return visuals.at_cells([_of(picture, side) for picture in visuals.layout.pictures])


def rank_in(part: Tensor, scores: Tensor, valid: Tensor) -> Tensor:
    """int64 (G, M): the place of each token in the falling order of its part's scores, from 0; ties to the earlier.

    Args:
        part: int64 (G, M), equal numbers for tokens of one part.
        scores: floating (G, M).
        valid: bool (G, M), False on padding, which is a part of its own.
    """
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    grouped = part.masked_fill(~valid, torch.iinfo(torch.long).max).gather(1, order)
    again = grouped.argsort(dim=1, stable=True)
    order, grouped = order.gather(1, again), grouped.gather(1, again)
    number = torch.arange(part.shape[1], device=part.device).expand_as(part)
    begins = torch.nn.functional.pad(grouped[:, 1:] != grouped[:, :-1], (1, 0), value=True)
    start = torch.where(begins, number, 0).cummax(1).values
    return torch.zeros_like(order).scatter_(1, order, number - start)


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
