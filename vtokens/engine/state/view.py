"""What decoder layers see of the sequence that was fed, and moving tensors between the two.

Throughout the engine a row is one of the batch, a position one of the sequence that was fed, a column one of what a
layer sees of it, which may be less; queries are columns that attend, keys what the cache holds.

Example: six positions were fed, v1 and v3 were dropped.

    fed position   0   1   2   3   4   5
    fed            t0  v0  v1  v2  v3  t1
    column         0   1       2       3       view.index = [0, 1, 3, 5]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtokens.core.layout import Layout


@dataclass(frozen=True, eq=False)
class View:
    """What the decoder layers see of the sequence that was fed, from some layer on.

    Layers that see the same share the same View, so that what is derived from it (masks, angles) is made once.

    Attributes:
        index: int64 (B, W), fed position of each column, ascending; arbitrary where not `real`.
        real: bool (B, W), False on the left padding that evens out the samples; None if there is none.
        layout: the layout of what is seen.
    """

    index: Tensor
    real: Tensor | None
    layout: Layout

    def to(self, device: torch.device) -> View:
        """The view on another device."""
        if self.index.device == device:
            return self
        return View(self.index.to(device), None if self.real is None else self.real.to(device), self.layout.to(device))

    def mask(self, fed: Tensor | None) -> Tensor | None:
        """bool (B, W): which columns may be attended to, from the padding mask (B, N) over fed positions."""
        seen = None if fed is None else fed.gather(1, self.index.to(fed.device))
        if seen is None or self.real is None:
            return self.real if seen is None else seen
        return seen & self.real.to(seen.device)


def gather(values: Tensor, columns: Tensor, dim: int) -> Tensor:
    """Gather columns (B, W) of `values` along `dim`, whose batch dimension (size B or 1) comes right before `dim`."""
    columns = columns.to(values.device)
    if len(columns) == 1 and values.shape[dim - 1] == 1:
        return values.index_select(dim, columns[0])
    # A size-1 batch dimension is shared by all samples, so each of them reads its entry 0.
    batch = torch.zeros_like(columns)
    if values.shape[dim - 1] > 1:
        batch = torch.arange(len(columns), device=columns.device)[:, None]
    index: tuple[Any, ...] = (*[slice(None)] * (dim - 1), batch, columns)
    return values[index]


def columns_at(index: Tensor, real: Tensor | None, length: int) -> Tensor:
    """int64 (B, length): the column that stands at each of `length` positions, below 0 where none does.

    Args:
        index: int64 (B, W), the position of each column.
        real: bool (B, W), False on columns that are padding, and so point anywhere; None if none is.
        length: positions.
    """
    column = torch.arange(index.shape[1], device=index.device).expand_as(index)
    return _scattered(index, column if real is None else torch.where(real, column, -1), length)


def _scattered(at: Tensor, column: Tensor, length: int) -> Tensor:
    return torch.full((len(at), length), -1, device=at.device).scatter_reduce(1, at, column, "amax")


def spread(values: Tensor, view: View | None, length: int) -> Tensor:
    """(B, W, ...), of the columns that `view` sees, at the `length` positions that were fed; 0 where it sees none."""
    if view is None:
        return values
    there = columns_at(view.index, view.real, length).to(values.device)
    seen = (there >= 0).view(*there.shape, *[1] * (values.dim() - 2))
    return torch.where(seen, gather(values, there.clamp(min=0), 1), 0)


def expand(hidden: Tensor, view: View, length: int, copies: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """(B, W, D) back to (B, length, D): dropped positions repeat the column of the last one kept before them.

    So logits stay aligned with the tokens the caller fed, and a label right after a dropped token is predicted from
    what the model really saw before it.

    Args:
        hidden: states of the columns that `view` kept.
        view: how they relate to what was fed.
        length: positions that were fed.
        copies: positions (B, N), and the column (B, N) that stands at each of them, below 0 where none does.
    """
    there = columns_at(view.index, view.real, length) if copies is None else _scattered(*copies, length)
    there = there.to(hidden.device)
    place = torch.arange(length, device=there.device)
    last = there.gather(1, torch.where(there < 0, 0, place).cummax(1).values)
    # Pictures lost from the very start have nothing before them: the first kept position, never padding.
    first = torch.zeros_like(last[:, :1]) if view.real is None else (~view.real).sum(1, keepdim=True).to(last.device)
    last = last.maximum(first)
    return gather(hidden, last, 1)
