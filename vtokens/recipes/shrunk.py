"""The arithmetic of QuoTA, on the host: how many tokens each frame keeps, in which grid, and what goes into them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def quotas(chances: Sequence[float], total: int, most: int) -> list[int]:
    """How many tokens each frame may keep, at most `total` together and `most` each; exact in the decimals given."""
    found, left = [0] * len(chances), total
    open_ = list(range(len(chances)))
    while open_:
        weights = {at: Fraction(str(chances[at])) ** 2 for at in open_}
        if not any(weights.values()):
            weights = dict.fromkeys(open_, Fraction(1))
        whole = sum(weights.values())
        share = {at: math.floor(left * weight / whole) for at, weight in weights.items()}
        full = [at for at in open_ if share[at] >= most]
        for at in full or open_:
            found[at] = min(most, share[at])
        if not full:
            break
        left -= most * len(full)
        open_ = [at for at in open_ if at not in full]
    if not any(found):
        for at in sorted(range(len(chances)), key=lambda at: -chances[at])[:total]:
            found[at] = 1
    return found


def grid(size: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns, at most `size` together, in about the proportions of a frame, which they do not exceed."""
    if size == 0:
        return 0, 0
    columns = min(width, size, max(1, math.isqrt(size * width // height)))
    rows = min(height, size // columns, max(1, math.isqrt(size * height // width)))
    return rows + (rows < height and (rows + 1) * columns <= size), columns


def axis(size: int, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the places of an axis go when frames are resized along it, int64 (T, size, 2), and how much of them.

    New place i has its middle at (i + 1/2) * size / new. Bilinear resizing takes of an old one 1 - its distance, so
    that an old one goes into two new ones at most where nothing grows.

    Args:
        size: old places.
        new: int64 (T,), new ones of each frame, at most `size`; 0 if it is gone.
    """
    count = np.maximum(new, 1)[:, None, None]
    own = np.arange(size)[:, None]
    to = ((2 * own + 1) * count - size) // (2 * size) + np.arange(2)
    there = (to >= 0) & (to < new[:, None, None])
    much = np.clip(1 - np.abs((2 * to + 1) * size / (2 * count) - 0.5 - own), 0, None) * there
    return (2 * np.clip(to, 0, count - 1) + 1) * size // (2 * count), much
