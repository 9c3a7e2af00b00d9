"""Visual tokens by parts of pictures: the views of an image, the frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vtokens.core.groups import Groups
from vtokens.core.on_device import on_device
from vtokens.core.picture import Picture


@dataclass(frozen=True)
class Parts:
    """Visual tokens by parts of pictures.

    Attributes:
        groups: one a part.
        owners: the picture of each.
    """

    groups: Groups
    owners: tuple[int, ...]


def parts_of(
    pictures: Sequence[Picture], image: Tensor, cell: Tensor, visual: Tensor, counts: tuple[int, ...], by_view: bool
) -> Parts:
    """The views of each picture, or the frames of each view, in sequence order.

    Args:
        pictures, image, cell, visual, counts: of a `vtokens.core.layout.Layout`.
        by_view: views, and not their frames.
    """
    table = np.full((len(pictures) + 1, max([1, *map(len, pictures)])), -1)  # the last row is no picture
    owners: list[int] = []
    for number, picture in enumerate(pictures):
        key = picture.view if by_view else picture.view * (1 + picture.t.max(initial=0)) + picture.t
        inside = picture.view >= 0
        found, which = np.unique(key[inside], return_inverse=True)
        table[number, : len(picture)][inside] = len(owners) + which
        owners += [number] * len(found)
    device = visual.device
    group = on_device(table, device)[image, cell.clamp(min=0)].masked_fill(~visual, -1)
    if counts == tuple(picture.tokens for picture in pictures):
        sizes = np.bincount(table[table >= 0], minlength=len(owners)).tolist()
    else:  # which of them are left, only the device knows
        flat = group.flatten()
        sizes = torch.bincount(torch.where(flat < 0, len(owners), flat), minlength=len(owners) + 1)[:-1].tolist()
    return Parts(Groups.of(group, sizes), tuple(owners))
