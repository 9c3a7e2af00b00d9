"""The attention that keys receive from chosen rows in each head by itself, and with distance divided out."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels import attention_colsum
from vtokens.kernels.attention_rows import counted_rows

LEAST = 0.05
"""What a weight is divided by at least: the effect of a rotary embedding comes near 0, and below, at far distances."""


def attention_by_head(
    query: Tensor,
    key: Tensor,
    scaling: float,
    rows: Tensor | None = None,
    position: Tensor | None = None,
    valid: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    angles: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The attention that each key receives in each head, the mean over rows, without an N x N matrix.

    Args:
        query, key, scaling, position, valid, bias, softcap: as in `attention_rows`.
        rows: bool (B, R), which rows count; None counts all. A sample without rows gets zeros.
        angles: unit vectors, float32 (B, R, 2D) and (B, N, 2D), cos and sin of each dimension's angle: a weight is
            divided by `effect` of its query and key. None leaves weights as they are.

    Returns:
        float32 (B, N, H).
    """
    (batch, heads, length, _), keys = query.shape, key.shape[2]
    count = length if rows is None else rows.sum(1).clamp(min=1)[:, None, None]
    if angles is None:
        found = attention_colsum(query, key, scaling, rows, position, valid, bias, softcap=softcap)
        return (found / count).transpose(1, 2)
    found = torch.zeros(batch, heads, keys, device=query.device)
    for part, share in counted_rows(query, key, scaling, rows, position, valid, bias, softcap):
        found += (share / effect(angles[0][:, part], angles[1])[:, None]).sum(2)
    return (found / count).transpose(1, 2)


def effect(rows: Tensor, keys: Tensor) -> Tensor:
    """float32 (B, R, N): the mean cosine of the angles between rows and keys, `LEAST` or more.

    That is the product of a query and a key of ones under the rotary embedding, over what it is at distance 0.
    """
    return (rows @ keys.transpose(1, 2) / (rows.shape[-1] // 2)).clamp(min=LEAST)
