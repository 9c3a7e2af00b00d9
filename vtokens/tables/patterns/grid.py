"""Grid: every s-th column and every s-th row, as a picture's rows and a video's frames lay them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vtokens.tables.patterns.a_shape import AShape
from vtokens.tables.patterns.lines import Ground, Lines, Pattern, Ranks, Size, Sums
from vtokens.tables.patterns.vertical_slash import VerticalSlash


@dataclass(frozen=True)
class Grid(Pattern):
    """Keeps the lines of a grid and a window before each row; stride and phase are read off the column sums.

    Attributes:
        columns, rows: whether to keep the lines that run down and across.
        slashes: rows and keys whose places leave the same remainder see each other, instead of a window.
        window: keys up to the row, itself included.
        strides: those that come into question; none are the pictures' own.
        text: columns that text rows keep where rows are split by modality.
    """

    intra: ClassVar[str] = "grid"
    columns: bool = True
    rows: bool = True
    slashes: bool = False
    window: int = 128
    strides: tuple[int, ...] = ()
    text: int = 256

    def lines(self, ground: Ground, plans: int, sums: Sums | None, strides: Sequence[int]) -> Lines:
        assert sums is not None
        lines, keys = AShape(0, self.window).lines(ground, plans, None, ()), ground.group.shape[1]
        strides = self._strides(keys, strides)
        if not strides:
            return lines
        stride, phase = find_grid(sums.column, ground.place, strides)
        place = ground.place[:, None]
        on = (place >= 0) & (place % stride[..., None] == phase[..., None])
        ranks, size, most = None, max(strides) + 1, -(-keys // min(strides))
        if self.slashes:
            # Keys beside the grid have a rank that no row has.
            rank = torch.where(place < 0, size - 1, place % stride[..., None])
            ranks = Ranks(rank[..., ground.offset :], rank, size, most)
        return Lines(
            on if self.columns else torch.zeros_like(on),
            on[..., ground.offset :] if self.rows else lines.rows,
            lines.bands,
            1 if self.slashes else self.window,
            most if self.columns else 0,
            ranks,
        )

    def size(self, keys: int, strides: Sequence[int]) -> Size:
        strides = self._strides(keys, strides)
        if not strides:
            return Size(0, self.window)
        line = -(-keys // min(strides))
        return Size(line * self.columns, line if self.slashes else self.window, 0, self.rows / min(strides))

    def for_text(self) -> Pattern:
        return VerticalSlash(self.text, 0, self.window)

    def _strides(self, keys: int, strides: Sequence[int]) -> list[int]:
        return [stride for stride in self.strides or strides if 1 < stride <= keys]


def find_grid(column: Tensor, place: Tensor, strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The stride and phase whose columns stand out most: int64 (B, P) each.

    What n columns receive above the mean, over the square root of n: twice the true stride has half of the columns,
    half of it dilutes them with as many of the ground, and either comes to 0.7 of the true one.

    Args:
        column: float32 (B, P, N), sums of each key.
        place: int64 (B, N), places on the grid, -1 for keys that stand on none.
        strides: those that come into question.
    """
    there = (place >= 0)[:, None].expand_as(column)
    mean = (column * there).sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp(min=1)
    above = torch.where(there, column - mean, 0)
    best = torch.full(column.shape[:2], -torch.inf, device=column.device)
    stride, phase = torch.full_like(best, strides[0], dtype=torch.long), torch.zeros_like(best, dtype=torch.long)
    for candidate in strides:
        index = torch.where(there, place[:, None] % candidate, 0)
        total = torch.zeros(*column.shape[:2], candidate, device=column.device).scatter_add_(-1, index, above)
        count = torch.zeros_like(total).scatter_add_(-1, index, there.float())
        response, where = (total / count.clamp(min=1).sqrt()).max(-1)
        better = response > best
        best, phase = torch.where(better, response, best), torch.where(better, where, phase)
        stride = stride.masked_fill(better, candidate)
    return stride, phase
