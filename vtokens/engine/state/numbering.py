"""Compact numbering: the gaps that dropped tokens would leave in the positions of later ones are closed.

fed position     0   1   2   3   4   5 | 6
kept             t0  v0      v2      t1| t2
original         0   1       3       5 | 6
compact          0   1       2       3 | 4      Numbering.gone = [0, 0, 1, 2], total = 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CLOSED = "closed"
"""What a cache layer notes of each sample: int64 (B,), by how much the numbers of later tokens are lower."""


@dataclass(frozen=True, eq=False)
class Numbering:
    """How the columns seen now are numbered, where gaps were closed.

    Attributes:
        gone: int64 (B, W), by how much the number of each column is lower.
        total: int64 (B,), by how much those of what follows are.
    """

    gone: Tensor
    total: Tensor

    @staticmethod
    def after(
        before: Numbering | None, columns: Tensor, was: Tensor, now: Tensor, rows: Sequence[int] | None, close: bool
    ) -> Numbering | None:
        """The numbering once some columns stayed.

        Args:
            before: the numbering of the columns so far; None if no gap was closed.
            columns: int64 (B, W'), those that stay.
            was: bool (B, W), False on padding of the columns so far.
            now: bool (B, W'), False on padding of those that stay.
            rows: the rows of the batch that are concerned; None if all.
            close: whether the gaps that this drop leaves are closed.
        """
        if before is None and not close:
            return None
        was, now = was.long(), now.long()
        gone = torch.zeros_like(columns) if before is None else before.gone.to(columns.device).gather(1, columns)
        total = torch.zeros_like(columns[:, 0]) if before is None else before.total.to(columns.device)
        if not close:
            return Numbering(gone, total)
        more, all_more = was.cumsum(1).gather(1, columns) - now.cumsum(1), was.sum(1) - now.sum(1)
        if rows is not None:
            own = torch.zeros(len(columns), dtype=torch.bool, device=columns.device)
            own[rows] = True
            more, all_more = more * own[:, None], all_more * own
        return Numbering(gone + more, total + all_more)
