"""Sparse cross-modal attention: chosen rows, text usually, over a list of chosen keys, visual ones usually.

A part of the library only: no strategy here attends to lists of keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels._check import check_range, check_shape, check_states
from vtokens.kernels._dispatch import use_triton
from vtokens.kernels._masked import masked_attention
from vtokens.kernels._precision import as_given


@as_given
def gathered_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    scaling: float | None = None,
    position: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention over the listed keys alone, which stay where they are.

    Merged by its log-sum-exp with attention over other keys, such as the text's, it is attention over both:

        output, lse = (torch.stack(parts) for parts in zip(visual, text))
        whole = reweigh(output.float(), group_weights(lse))

    Args:
        query: (B, H, R, D), rotary embedding applied; any strides.
        key: (B, H_kv, N, D); H is a multiple of H_kv (grouped-query attention), keys are never repeated.
        value: (B, H_kv, N, D_v).
        index: int (B, P, S), the keys to look at, in [0, N), in any order: P = 1 list for all heads, H_kv lists or H.
            Shorter lists are filled up with -1, anywhere. A key that is listed twice counts twice.
        scaling: the factor on the products; default 1 / sqrt(D).
        position: int (B, R), the key index of each row; keys after it are masked (causal). None: all are seen.

    Returns:
        output: (B, H, R, D_v), dtype of `value`, zero where a row sees no key.
        lse: float32 (B, H, R) (float64 for such inputs), natural logarithm, -inf there.

    Raises:
        TypeError: dtypes that differ, or are no floating point; an index that is no integer.
        ValueError: shapes that do not fit together, an index out of range. On an accelerator the latter is a failed
            assertion of the device, as in PyTorch's own indexing, and nothing waits for it.
    """
    check_states(query, key, value)
    (batch, heads, rows, dim), (_, kv_heads, keys, _) = query.shape, key.shape
    entries = index.shape[-1] if index.dim() else 0
    check_shape("index", index, *((batch, lists, entries) for lists in (1, kv_heads, heads)))
    check_range("index", index, -1, keys - 1)
    if position is not None:
        check_shape("position", position, (batch, rows))
    scaling = dim**-0.5 if scaling is None else scaling
    if use_triton(query, key, value):
        from vtokens.kernels._triton.gathered import gathered_attention as fused

        output, lse = fused(query, key, value, index, scaling, position)
    else:
        output, lse = reference(query, key, value, index, scaling, position)
    return output.to(value.dtype), lse


def reference(
    query: Tensor, key: Tensor, value: Tensor, index: Tensor, scaling: float, position: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """In plain PyTorch: the listed rows side by side, and attention over them."""
    batch, kv_heads, keys, _ = key.shape
    lists = max(kv_heads, index.shape[1])
    listed = index.expand(-1, lists, -1) if keys else index.new_zeros(batch, lists, 0)
    # A mask for each list, which may be one of all heads.
    seen: Tensor | None = (index >= 0)[:, :, None]
    if position is not None:
        seen = (index >= 0)[:, :, None] & (index[:, :, None] <= position[:, None, :, None])
    elif index.device.type == "cpu" and bool((index >= 0).all()):
        seen = None
    sample = torch.arange(batch, device=index.device)[:, None, None]
    head = torch.arange(lists, device=index.device)[:, None] // (lists // kv_heads)
    at = sample, head, listed.long().clamp(min=0)
    return masked_attention(query, key[at], value[at], scaling, seen)
