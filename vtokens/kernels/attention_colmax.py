"""The most attention that keys receive from any chosen row of any head."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels._precision import as_given
from vtokens.kernels.attention_rows import attention_rows, chunk_of


@as_given
def attention_colmax(
    query: Tensor,
    key: Tensor,
    scaling: float,
    rows: Tensor | None = None,
    position: Tensor | None = None,
    valid: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The largest attention probability that each key gets, over heads and chosen rows, without an N x N matrix.

    Args:
        query, key, scaling, position, valid, bias, softcap: as in `attention_rows`.
        rows: bool (B, R), which rows count; None counts all.

    Returns:
        float32 (B, N); 0 for keys that no row sees, and where no row counts.
    """
    (batch, heads, length, _), keys = query.shape, key.shape[2]
    found = torch.zeros(batch, keys, device=query.device)
    chunk = max(1, chunk_of(query.device) // max(1, batch * heads * keys))
    for first in range(0, length, chunk):
        part = slice(first, first + chunk)
        where = None if position is None else position[:, part]
        share = attention_rows(query[:, :, part], key, scaling, where, valid, bias, softcap)
        if rows is not None:
            share = share.masked_fill(~rows[:, None, part, None], 0)
        found = torch.maximum(found, share.amax((1, 2)))
    return found
