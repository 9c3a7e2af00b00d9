"""The columns that a decoder layer computes, where others pass through it as they are.

Example: three of six columns are computed; those of a row that computes fewer are padded in front.

    column     t0  v0  v1  v2  v3  t1
    stay       yes no  no  yes no  yes      index = [0, 3, 5]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.columns import columns_of
from vtokens.engine.state.view import gather


@dataclass(frozen=True, eq=False)
class Computed:
    """Columns that a decoder layer computes.

    Attributes:
        stay: bool (B, W), the columns.
        index: int64 (B, R), where they are, ascending; 0 where not `real`.
        real: bool (B, R), False on the padding in front of rows that compute fewer.
    """

    stay: Tensor
    index: Tensor
    real: Tensor

    @staticmethod
    def of(stay: Tensor, most: int) -> Computed:
        """Those at which `stay` (B, W) holds, `most` in any row at most."""
        return Computed(stay, *columns_of(stay, most))

    @property
    def fewer(self) -> bool:
        """Whether they are fewer than there are columns."""
        return self.index.shape[1] < self.stay.shape[1]

    def take(self, values: Tensor, dim: int) -> Tensor:
        """What `values` (B or 1, ..., W, ...) hold for them along `dim`."""
        if dim == 1:
            return gather(values, self.index, 1)
        moved = values.movedim(dim, 1).expand(len(self.index), *[-1] * (values.dim() - 1))
        return gather(moved, self.index, 1).movedim(1, dim)

    def put(self, values: Tensor) -> Tensor:
        """(B, W, ...): what there is for them, (B, R, ...), at their columns, and 0 elsewhere."""
        batch, width = self.stay.shape
        # What pads stands behind the last column, and is cut off.
        at = torch.where(self.real, self.index, width).to(values.device)
        at = at + (width + 1) * torch.arange(batch, device=values.device)[:, None]
        whole = values.new_zeros(batch * (width + 1), *values.shape[2:])
        return whole.index_copy(0, at.flatten(), values.flatten(0, 1)).view(batch, width + 1, *values.shape[2:])[:, :-1]
