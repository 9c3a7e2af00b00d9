"""Attention over listed keys: `attend` looks each up as it goes, so nothing is gathered in memory."""

from __future__ import annotations

from torch import Tensor

from vtokens.kernels._triton.attend import attend, merge


def gathered_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    scaling: float,
    position: Tensor | None,
    tile: tuple[int, int] | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As `vtokens.kernels.gathered_attention`, in float32; `tile` and `splits` of the lists are chosen if not given."""
    output, lse = merge(*attend(query, key, value, scaling, index=index, position=position, tile=tile, splits=splits))
    return output[0], lse[0]
