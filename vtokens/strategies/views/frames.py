"""The videos among the visual tokens of a batch, frame by frame: what stands at a place, and at it in another frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vtokens.core.on_device import on_device
from vtokens.core.picture import Picture
from vtokens.strategies.selection import Selection


@dataclass(frozen=True)
class Frames:
    """Tokens of V videos as grids of up to T frames with up to P places each.

    Attributes:
        rows: which of the G pictures are videos, on the host.
        shapes: (frames, places of a frame) of each video, on the host; what was dropped is counted.
        slot: int64 (V, T, P), which token of its picture stands there; arbitrary where there is none.
        real: bool (V, T, P): False where a token was dropped before, and behind the end of smaller videos.
        at: int64 (V, M), where in T * P each token stands; arbitrary on padding.
    """

    rows: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    slot: Tensor
    real: Tensor
    at: Tensor

    @staticmethod
    def of(pictures: Sequence[Picture], cells: Tensor, valid: Tensor) -> Frames | None:
        """The videos among some pictures; None if there is none.

        Args:
            pictures: G of them.
            cells: int64 (G, M), the position of each token inside its picture.
            valid: bool (G, M).
        """
        rows = tuple(row for row, picture in enumerate(pictures) if picture.modality == "video")
        if not rows:
            return None
        videos = [pictures[row] for row in rows]
        shapes = tuple((max(t for t, _, _ in one.grids), sum(h * w for _, h, w in one.grids)) for one in videos)
        most, wide = (max(sizes) for sizes in zip(*shapes, strict=True))
        table = np.zeros((len(videos), max(map(len, videos))), dtype=np.int64)
        for row, one in enumerate(videos):
            first = np.cumsum([0, *(h * w for _, h, w in one.grids)])
            width = np.array([w for _, _, w in one.grids])
            table[row, : len(one)] = one.t * wide + first[one.view] + one.y * width[one.view] + one.x
        if len(rows) < len(pictures):
            index = on_device(rows, cells.device)
            cells, valid = cells[index], valid[index]
        at = on_device(table, cells.device).gather(1, cells.clamp(0, table.shape[1] - 1))
        # Padding is written behind the last place, and cut off.
        to = at.masked_fill(~valid, most * wide)
        own = torch.arange(cells.shape[1], device=cells.device).expand_as(cells)
        slot = own.new_zeros(len(rows), most * wide + 1).scatter(1, to, own)[:, :-1]
        real = valid.new_zeros(len(rows), most * wide + 1).scatter(1, to, True)[:, :-1]
        shape = (len(rows), most, wide)
        return Frames(rows, shapes, slot.view(shape), real.view(shape), at.masked_fill(~valid, 0))

    def gather(self, values: Tensor) -> Tensor:
        """(G, M, ...) of all pictures -> (V, T, P, ...) of the videos, 0 where no token stands."""
        own = self._own(values)
        number = torch.arange(len(own), device=own.device)[:, None, None]
        found = own[number, self.slot]
        return found.masked_fill(~self.real.view(*self.real.shape, *[1] * (found.dim() - 3)), 0)

    def scatter(self, values: Tensor, others: Tensor) -> Tensor:
        """(V, T, P, ...) of the videos -> (G, M, ...), with `others` of that shape at the pictures that are none."""
        values = values.flatten(1, 2)
        own = values[torch.arange(len(values), device=values.device)[:, None], self.at]
        if len(self.rows) == len(others):
            return own
        return others.index_copy(0, on_device(self.rows, others.device), own)

    def _own(self, values: Tensor) -> Tensor:
        return values if len(self.rows) == len(values) else values[on_device(self.rows, values.device)]

    def merged(self, keep: Selection, into: Tensor, weights: Tensor) -> Selection:
        """A selection in which tokens of videos go into kept ones.

        Args:
            keep: which tokens of all pictures stay.
            into: int64 (V, T * P), the place of the kept token that each goes into; (V, T * P, J) where into several.
            weights: floating, of that shape, how much of it.
        """
        own = torch.arange(keep.keep.shape[1], device=into.device).expand_as(keep.keep)
        whole = torch.ones_like(own, dtype=weights.dtype)
        if into.dim() == 3:  # images go into themselves once
            more = into.shape[2] - 1
            own = own[..., None].expand(-1, -1, 1 + more)
            whole = torch.nn.functional.pad(whole[..., None], (0, more))
        slot = self.slot.flatten(1).gather(1, into.flatten(1)).view_as(into)
        shape = self.real.shape + into.shape[2:]
        goes, much = self.scatter(slot.view(shape), own), self.scatter(weights.view(shape), whole)
        return replace(keep, into=goes, weights=much)
