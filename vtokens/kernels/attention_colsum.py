"""The attention that keys receive from chosen rows, beside whatever attention implementation computes the output."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vtokens.core.errors import unknown
from vtokens.kernels._check import check_shape, check_states
from vtokens.kernels._dispatch import use_triton
from vtokens.kernels._precision import as_given
from vtokens.kernels.attention_rows import chunk_of, row_scores

REDUCTIONS = ("none", "mean", "max")


@as_given
def attention_colsum(
    query: Tensor,
    key: Tensor,
    scaling: float | None = None,
    rows: Tensor | None = None,
    position: Tensor | None = None,
    valid: Tensor | None = None,
    bias: Tensor | None = None,
    lse: Tensor | None = None,
    heads: Literal["none", "mean", "max"] = "none",
    softcap: float | None = None,
) -> Tensor:
    """Importance scores of keys: the attention each receives, summed over chosen rows, without an N x N matrix.

    A softmax is known only when its row has seen every key, so the sums cannot come out of the pass that computes the
    output. They need one more product of the chosen rows with the keys; that of their log-sum-exps too, unless these
    are given, as fused attention implementations can return them.

    Args:
        query: (B, H, R, D), the rows, rotary embedding applied; any strides.
        key: (B, H_kv, N, D); H is a multiple of H_kv (grouped-query attention), keys are never repeated.
        scaling: the factor on the products; default 1 / sqrt(D).
        rows: bool (B, R), which rows count, or float, how much (0 or more); None counts all. What a row that does not
            count holds or sees, even NaN, has no effect.
        position: int64 (B, R), the key index of each row; keys after it are masked (causal). None: all keys are seen.
        valid: bool (B, N), False on keys nobody may attend to.
        bias: float32 (B, N), added to the scores of each key; -inf is a key nobody may attend to.
        lse: float32 (B, H, R), natural log-sum-exp of each row over all keys it sees, -inf where it sees none.
        heads: "none" keeps them apart, "mean" and "max" reduce the sums over heads.
        softcap: c, where scores s become c * tanh(s / c) before the bias (Gemma 2), in plain PyTorch; None leaves them.

    Returns:
        float32 (B, H, N), or (B, N) with the heads reduced. What a row gives adds up to its weight over all keys, or to
        0 if it sees none; masked keys get 0. NaN in rows that count, or in keys they see, comes out as NaN.

    Raises:
        TypeError: dtypes that differ, or are no floating point.
        ValueError: shapes that do not fit together; an unknown reduction.
    """
    check_states(query, key)
    (batch, count, length, dim), keys = query.shape, key.shape[2]
    for name, part, shape in (
        ("rows", rows, (batch, length)), ("position", position, (batch, length)), ("valid", valid, (batch, keys)),
        ("bias", bias, (batch, keys)), ("lse", lse, (batch, count, length)),
    ):  # fmt: skip
        if part is not None:
            check_shape(name, part, shape)
    if heads not in REDUCTIONS:
        raise unknown("reduction of heads", heads, REDUCTIONS)
    scaling = dim**-0.5 if scaling is None else scaling
    if not keys or not length:
        sums = torch.zeros(batch, count, keys, device=query.device)
    else:
        weight = torch.ones(batch, length, device=query.device)
        if rows is not None:
            # Rows that do not count are zero and, where positions are known, see nothing.
            weight, out = rows.to(torch.float32), rows == 0
            query = query.masked_fill(out[:, None, :, None], 0)
            position = None if position is None else position.masked_fill(out, -1)
        sums = _sums(query, key, scaling, weight, position, valid, bias, lse, heads == "mean", softcap)
        if rows is not None:
            sums = sums.masked_fill(out.all(1)[:, None, None], 0)
    if heads == "max":
        return sums.amax(1)
    return sums.sum(1) / count if heads == "mean" else sums


@as_given
def attention_colmean(
    query: Tensor,
    key: Tensor,
    scaling: float,
    rows: Tensor | None = None,
    position: Tensor | None = None,
    valid: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """`attention_colsum` averaged over heads and, by their weights, over rows.

    Args:
        query, key, scaling, rows, position, valid, bias, softcap: as there. A sample without rows gets zeros.

    Returns:
        float32 (B, N); each sample sums to 1 if all its rows see a key.
    """
    mean = attention_colsum(query, key, scaling, rows, position, valid, bias, heads="mean", softcap=softcap)
    if rows is None:
        return mean / max(1, query.shape[2])
    total = rows.to(torch.float32).sum(1, keepdim=True)
    return mean / total.masked_fill(total == 0, 1)


def _sums(
    query: Tensor, key: Tensor, scaling: float, weight: Tensor, position: Tensor | None, valid: Tensor | None,
    bias: Tensor | None, lse: Tensor | None, joint: bool, softcap: float | None,
) -> Tensor:  # fmt: skip
    """(B, H, N); if `joint`, the heads may be added up already, to any number."""
    if softcap is None and use_triton(query, key):
        from vtokens.kernels._triton.rows import attention_colsum as fused

        if valid is not None:
            bias = torch.where(valid, 0.0 if bias is None else bias, -torch.inf)
        return fused(query, key, scaling, weight, position, bias, lse, joint)
    return reference(query, key, scaling, weight, position, valid, bias, lse, softcap)


def reference(
    query: Tensor, key: Tensor, scaling: float, weight: Tensor, position: Tensor | None = None,
    valid: Tensor | None = None, bias: Tensor | None = None, lse: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:  # fmt: skip
    """In plain PyTorch: `attention_colsum` for weights float32 (B, R), as many rows at a time as `chunk_of` allows."""
    (batch, heads, rows, _), keys = query.shape, key.shape[2]
    key = key.to(torch.promote_types(key.dtype, torch.float32))
    # Nor more than the queries or keys themselves: a narrow tower's whole peak is only a few times that.
    most = min(chunk_of(key.device), max(query.numel(), key.numel()))
    chunk = max(1, most // max(1, batch * heads * keys))
    received = torch.zeros(batch, heads, keys, device=query.device)
    for first in range(0, rows, chunk):
        part = slice(first, first + chunk)
        where = None if position is None else position[:, part]
        scores, seen = row_scores(query[:, :, part].to(key.dtype), key, scaling, where, valid, bias, softcap)
        share = weight[:, part]
        if seen is not None:
            share = share * seen.any(-1)
        if lse is None:
            probability = scores.softmax(-1)
        else:
            known = lse[:, :, part, None]
            probability = scores.sub_(known.masked_fill(known == -torch.inf, 0)).exp_()
        received += (share[:, None, None] @ probability)[:, :, 0]
    return received
