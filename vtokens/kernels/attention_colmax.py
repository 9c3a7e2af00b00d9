"""The most attention that keys receive from any chosen row of any head."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels._precision import as_given
from vtokens.kernels.attention_rows import counted_rows


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
    found = torch.zeros(len(query), key.shape[2], device=query.device)
    for _, share in counted_rows(query, key, scaling, rows, position, valid, bias, softcap):
        found = torch.maximum(found, share.amax((1, 2)))
    return found
