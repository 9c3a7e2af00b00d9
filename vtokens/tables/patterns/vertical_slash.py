"""Vertical-slash: the columns and diagonals that a few rows attend to most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vtokens.tables.patterns.lines import Ground, Lines, Pattern, Size, Sums


@dataclass(frozen=True)
class VerticalSlash(Pattern):
    """Keeps the columns and diagonals with the largest sums in each group of keys, and a window before each row.

    Attributes:
        columns: how many columns.
        diagonals: how many bands of 64 diagonals.
        window: keys up to the row, itself included.
    """

    intra: ClassVar[str] = "vertical_slash"
    columns: int = 512
    diagonals: int = 8
    window: int = 128

    def lines(self, ground: Ground, plans: int, sums: Sums | None, strides: Sequence[int]) -> Lines:
        assert sums is not None
        batch, keys = ground.group.shape
        rows = ground.row.new_zeros(batch, plans, ground.row.shape[1])
        chosen = top_columns(ground, sums.column, self.columns)
        return Lines(
            chosen, rows, top_bands(sums.band, self.diagonals), self.window, min(keys, ground.groups * self.columns)
        )

    def size(self, keys: int, strides: Sequence[int]) -> Size:
        return Size(self.columns, self.window, self.diagonals)


def top_columns(ground: Ground, column: Tensor, count: int) -> Tensor:
    """bool (B, P, N): the `count` keys of each group with the largest sums (B, P, N)."""
    chosen = torch.zeros_like(column, dtype=torch.bool)
    for number in range(ground.groups):
        inside = (ground.group == number)[:, None]
        index = column.masked_fill(~inside, -1.0).topk(min(count, column.shape[-1]), -1).indices
        chosen |= torch.zeros_like(chosen).scatter_(-1, index, True) & inside
    return chosen


def top_bands(band: Tensor, count: int) -> Tensor:
    """int64 (B, P, groups, n): the bands with the largest sums; -1 where a sum is zero."""
    best = band.topk(min(count, band.shape[-1]), -1)
    return best.indices.masked_fill(best.values <= 0, -1)
