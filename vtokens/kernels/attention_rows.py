"""A few rows of an attention matrix, beside whatever attention implementation computes the output."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels._dispatch import use_triton

_CHUNK = {"cpu": 1 << 20}
"""Most probabilities held at once, in elements, by device type: on a CPU 4 MiB, which its caches hold."""
_CHUNK_ELSEWHERE = 1 << 22
"""On an accelerator 16 MiB: few launches, and less than the activations of the layer that is watched."""


def chunk_of(device: torch.device) -> int:
    """How many probabilities may be held at once on `device`."""
    return _CHUNK.get(device.type, _CHUNK_ELSEWHERE)


def attention_rows(
    query: Tensor,
    key: Tensor,
    scaling: float,
    position: Tensor | None = None,
    valid: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention probabilities of chosen query rows: softmax(q k^T * scaling) in float32.

    Args:
        query: (B, H, R, D), the chosen rows only, rotary embedding applied.
        key: (B, H_kv, N, D); H is a multiple of H_kv (grouped-query attention).
        scaling: the factor on the products, usually 1 / sqrt(D).
        position: int64 (B, R) key index of each row; keys after it are masked (causal). None: all keys are seen.
        valid: bool (B, N), False on keys nobody may attend to.
        bias: float32 (B, N), added to the scores of each key; -inf is a key nobody may attend to.

    Returns:
        float32 (B, H, R, N); rows sum to 1, rows without any key are zero.
    """
    batch, heads, rows, dim = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * rows, dim)
    # Products in the model's own precision, as a fused kernel makes them; the softmax in float32.
    scores = (grouped @ key.transpose(-1, -2)).float().view(batch, heads, rows, keys).mul_(scaling)
    if bias is not None:
        scores += bias[:, None, None]
    seen = None
    if position is not None:
        seen = torch.arange(keys, device=key.device) <= position[:, None, :, None]
    if valid is not None:
        seen = valid[:, None, None] if seen is None else seen & valid[:, None, None]
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    # A row without any key is all -inf.
    return scores.softmax(-1) if seen is None and bias is None else scores.softmax(-1).nan_to_num(0.0)


def attention_colmean(
    query: Tensor,
    key: Tensor,
    scaling: float,
    rows: Tensor | None = None,
    position: Tensor | None = None,
    valid: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The attention each key receives, averaged over heads and chosen rows, without an N x N matrix.

    Args:
        query: (B, H, M, D), all query rows.
        key: (B, H_kv, N, D).
        scaling: the factor on the products.
        rows: bool (B, M), which rows count, or float32, how much; None counts all. A sample without rows gets zeros.
        position: int64 (B, M), as in `attention_rows`.
        valid: bool (B, N), as in `attention_rows`.
        bias: float32 (B, N), as in `attention_rows`.

    Returns:
        float32 (B, N), each row summing to 1.
    """
    batch, heads, total, _ = query.shape
    weight = torch.ones(batch, total, device=query.device) if rows is None else rows.to(torch.float32)
    received = _received(query, key, scaling, weight, position, valid, bias)
    return received / (heads * weight.sum(1, keepdim=True)).clamp(min=1)


def _received(
    query: Tensor,
    key: Tensor,
    scaling: float,
    weight: Tensor,
    position: Tensor | None,
    valid: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """float32 (B, N): the sum over heads and rows, weighted by float32 (B, M)."""
    if use_triton(query, key):
        from vtokens.kernels._triton.rows import attention_colsum

        if valid is not None:
            bias = torch.where(valid, 0.0 if bias is None else bias, -torch.inf)
        return attention_colsum(query, key, scaling, weight.contiguous(), position, bias)
    batch, heads, total, _ = query.shape
    keys, most = key.shape[2], chunk_of(key.device)
    # Nor more than the queries themselves: a narrow tower's whole peak is only a few times that.
    chunk = max(1, min(most, query.numel()) // max(1, batch * heads * keys))
    received = torch.zeros(batch, keys, device=query.device)
    for first in range(0, total, chunk):
        part = slice(first, first + chunk)
        where = None if position is None else position[:, part]
        probability = attention_rows(query[:, :, part], key, scaling, where, valid, bias).view(batch, -1, keys)
        # One product over heads and rows together; an einsum would transpose all the probabilities first.
        received += (weight[:, None, part].expand(-1, heads, -1).reshape(batch, 1, -1) @ probability)[:, 0]
    return received
