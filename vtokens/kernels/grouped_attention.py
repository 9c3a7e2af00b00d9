"""Attention split by groups of keys, so that any reweighting of whole groups is exact without the attention matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vtokens.kernels._dispatch import use_triton
from vtokens.kernels._grouped import chunks, joined, listed, masked_scores, membership, reweighed, split
from vtokens.kernels._precision import as_given
from vtokens.kernels._softmax import fusible
from vtokens.kernels.attention_rows import HIDDEN
from vtokens.kernels.recycling import Recycling

_MANY = 128
"""Rows that share their keys, from which attention group by group is faster on a CPU than all groups at once."""


@as_given
def grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: Tensor,
    groups: int,
    scaling: float,
    position: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Per group of keys, the softmax over that group alone: its output and its log-sum-exp.

    With L_g the log-sum-exp of group g and w = softmax(L) over groups (`group_weights`), sum_g w_g O_g is the ordinary
    attention output (`reweigh`); other weights give attention whose groups gained or lost mass, exactly.

    Args:
        query: (B, H, R, D), the chosen rows, rotary embedding applied.
        key: (B, H_kv, N, D); H is a multiple of H_kv (grouped-query attention), keys are never repeated.
        value: (B, H_kv, N, D_v).
        group: int64 (B, N), the group of each key in [0, groups). Nobody attends to keys with another value, such as
            -1 for padding.
        groups: how many groups there are.
        scaling: the factor on the products, usually 1 / sqrt(D).
        position: int64 (B, R) key index of each row; keys after it are masked (causal). None: all keys are seen.
        softcap: c, where scores s become c * tanh(s / c) (Gemma 2), in plain PyTorch; None leaves them as they are.

    Returns:
        outputs: float32 (groups, B, H, R, D_v), zero where a row sees no key of the group.
        lse: float32 (groups, B, H, R), natural logarithm, -inf there. A group keeps its digits however far it lies
            below another.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check(query, key, value, group)
    if key.shape[2] == 0:
        outputs = value.new_zeros(groups, *query.shape[:3], value.shape[-1], dtype=torch.float32)
        return outputs, outputs.new_full(outputs.shape[:-1], -torch.inf)
    if softcap is None and use_triton(query, key, value):
        from vtokens.kernels._triton.grouped import grouped_attention as fused

        return fused(query, key, value, group, groups, scaling, position)
    member = membership(group, groups)
    # Copies of the keys must pay.
    if softcap is None and query.shape[1] // key.shape[1] * query.shape[2] >= _MANY and fusible(query, key, value):
        return listed(query, key, value, member, scaling, position)
    parts = []
    for rows, places in chunks(query, key, groups, position):
        scores, seen = masked_scores(rows, key, member, scaling, places, softcap)
        parts.append(split(scores, seen, value, member))
    return joined(parts, 3)


@as_given
def reweighed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: Tensor,
    groups: int,
    scaling: float,
    change: Callable[[Tensor], Tensor],
    position: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention whose groups of keys gain or lose mass: `reweigh(outputs, change(group_weights(lse)))`.

    On a CPU this is one softmax and one product with the values, as in attention without groups. On a GPU a change that
    is a `Recycling` costs no launch of its own.

    Args:
        query, key, value, group, groups, scaling, position, softcap: as in `grouped_attention`.
        change: from float32 (groups, B, H, R), the share of attention that each group holds, to the share it is to
            hold. Called once for each chunk of rows.

    Returns:
        output: float32 (B, H, R, D_v).
        weights: float32 (groups, B, H, R), the shares before the change.
    """
    _check(query, key, value, group)
    if isinstance(change, Recycling) and groups != 4:
        raise ValueError(f"groups={groups}: Recycling moves attention between 4 groups")
    fused = softcap is None and key.shape[2] > 0 and use_triton(query, key, value)
    if fused and isinstance(change, Recycling):
        from vtokens.kernels._triton.recycled import recycled_attention

        return recycled_attention(query, key, value, group, scaling, change, position)
    if fused or query.device.type != "cpu" or not key.shape[2]:
        outputs, lse = grouped_attention(query, key, value, group, groups, scaling, position, softcap)
        weights = group_weights(lse)
        return reweigh(outputs, change(weights)), weights
    member = membership(group, groups)
    parts = []
    for rows, places in chunks(query, key, 1, position):
        scores, seen = masked_scores(rows, key, member, scaling, places, softcap)
        parts.append(reweighed(scores, seen, value, member, change))
    return joined(parts, 2)


@as_given
def group_weights(lse: Tensor) -> Tensor:
    """Softmax over groups of log-sum-exps (G, B, H, R): each group's share of attention; a row without keys is zero."""
    return lse.clamp(min=HIDDEN).softmax(0) * (lse != -torch.inf)


@as_given
def reweigh(outputs: Tensor, weights: Tensor) -> Tensor:
    """The attention output (B, H, R, D_v) of group outputs (G, B, H, R, D_v) under weights (G, B, H, R)."""
    return torch.einsum("gbhr,gbhrd->bhrd", weights, outputs)


def _check(query: Tensor, key: Tensor, value: Tensor, group: Tensor) -> None:
    (batch, heads, *_), (_, kv_heads, keys, _) = query.shape, key.shape
    if heads % kv_heads or value.shape[:3] != key.shape[:3] or group.shape != (batch, keys):
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)} and group "
            f"{tuple(group.shape)} do not fit: they must be (B, H, R, D), (B, H_kv, N, D), (B, H_kv, N, D_v) and "
            "(B, N), with H a multiple of H_kv"
        )
