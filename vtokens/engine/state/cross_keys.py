"""Keys of tokens that stand outside the sequence: which of them a cross-attention layer holds, and how masks follow.

Example: a picture has five keys, a class token c and four visual tokens, of which v1 and v2 were dropped.

    column of the decoder's mask   0   1   2   3   4
    key                            c   v0  v1  v2  v3
    held                           0   1           4       columns.index = [0, 1, 4]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vtokens.engine.state.padding import join_padding
from vtokens.engine.state.wrapped_layer import WrappedLayer


@dataclass(frozen=True, eq=False)
class Columns:
    """Which columns of the decoder's mask the keys of cross-attention layers stand for.

    Attributes:
        index: int64 (B, K), the column of each key; arbitrary where not `real`.
        real: bool (B, K), False on the padding that evens out the rows; None if there is none.
        width: columns of the mask.
    """

    index: Tensor
    real: Tensor | None
    width: int

    @staticmethod
    def all(batch: int, width: int, device: torch.device) -> Columns:
        """Those of keys of which none was dropped."""
        return Columns(torch.arange(width, device=device).expand(batch, -1), None, width)

    def then(self, later: Columns) -> Columns:
        """Those of the same rows once keys of further pictures stand behind these."""
        real = join_padding(self.real, later.real, self.index.shape[1], later.index.shape[1])
        return Columns(torch.cat([self.index, later.index + self.width], 1), real, self.width + later.width)

    def without_padding(self, states: Tensor) -> Tensor:
        """States (B, K, D) with 0 on padding, whose keys and values are then 0 too."""
        return states if self.real is None else states.masked_fill(~self.real.to(states.device)[..., None], 0)

    def mask(self, mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """(B, 1, N, K), which keys each position sees, from the additive mask (B, 1, N, width) over all.

        Args:
            mask: as the multimodal module makes it; None if everything is seen.
            dtype: of the mask where there is none.

        Raises:
            ValueError: a mask of another width.
        """
        if mask is None:
            if self.real is None:
                return None
            cut = torch.zeros(self.real.shape, dtype=dtype, device=self.real.device)[:, None, None]
        elif mask.shape[-1] != self.width:
            raise ValueError(
                f"the cross-attention mask has {mask.shape[-1]} columns, and the pictures of this sequence, those in "
                f"the cache included, have {self.width}: give it for all pictures, and the pixels of the new ones alone"
            )
        else:
            index = self.index.to(mask.device)[:, None, None].expand(-1, mask.shape[1], mask.shape[2], -1)
            cut = mask.gather(-1, index)
        if self.real is None:
            return cut
        return cut.masked_fill(~self.real.to(cut.device)[:, None, None], torch.finfo(cut.dtype).min)

    def padded(self, length: int) -> Columns:
        """Those of a layer with `length` slots, the last of which hold nothing."""
        more = length - self.index.shape[1]
        if more <= 0:
            return self
        real = torch.ones_like(self.index, dtype=torch.bool) if self.real is None else self.real
        return Columns(nn.functional.pad(self.index, (0, more)), nn.functional.pad(real, (0, more)), self.width)

    def map(self, change: Callable[[Tensor], Tensor]) -> Columns:
        """Those of other rows of the batch."""
        return Columns(change(self.index), None if self.real is None else change(self.real), self.width)


class CrossKeys(WrappedLayer):
    """The cache layer of a cross-attention layer from which keys were dropped.

    It goes on being what it was, but for what is cropped: its keys have no place in the sequence.

    Attributes:
        inner: the layer of transformers' that stores keys and values.
        columns: what they stand for; moves along when beams are reordered. None while nothing is stored.
        room: slots that the caller gave it, where they are fixed; None where it grows.
    """

    def __init__(self, inner: Any, columns: Columns | None) -> None:
        super().__init__(inner)
        self.columns = columns

    def crop(self, tokens_to_remove: int) -> None:
        """Leave all keys: what is removed are positions of the sequence."""

    def reset(self) -> None:
        self.inner = self._emptied()
        self.columns = None

    def _map(self, change: Callable[[Tensor], Tensor], layer: Callable[[Any], None]) -> None:
        self.columns = None if self.columns is None else self.columns.map(change)
