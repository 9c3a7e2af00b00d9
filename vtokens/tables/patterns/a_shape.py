"""A-shape: the first keys, and a window before each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.tables.patterns.lines import Ground, Lines, Pattern, Size, Sums


@dataclass(frozen=True)
class AShape(Pattern):
    """Keeps the first keys of each group, and those right before each row. Nothing is estimated.

    Attributes:
        sink: how many first keys.
        window: how many keys up to the row, itself included.
    """

    intra: ClassVar[str] = "a_shape"
    estimated: ClassVar[bool] = False
    sink: int = 64
    window: int = 512

    def lines(self, ground: Ground, plans: int, sums: Sums | None, strides: Sequence[int]) -> Lines:
        batch, keys = ground.group.shape
        columns = first_keys(ground, self.sink)[:, None].expand(-1, plans, -1)
        rows = columns.new_zeros(batch, plans, ground.row.shape[1])
        bands = ground.group.new_zeros(batch, plans, ground.groups, 0)
        return Lines(columns, rows, bands, self.window, min(keys, ground.groups * self.sink))

    def size(self, keys: int, strides: Sequence[int]) -> Size:
        return Size(self.sink, self.window)


def first_keys(ground: Ground, count: int) -> Tensor:
    """bool (B, N): the first `count` keys of each group."""
    first = ground.group < -1
    for number in range(ground.groups):
        inside = ground.group == number
        first |= inside & (inside.cumsum(-1) <= count)
    return first
