"""Attention under a mask with its log-sum-exps, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels._softmax import fusible
from vtokens.kernels.attention_rows import HIDDEN, chunk_of

_FEW = 8
"""Rows up to which a float32 product with the heads of a group side by side beats PyTorch's fused kernel on a CPU."""


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, seen: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Softmax attention.

    Args:
        query: (B, H, R, D).
        key, value: (B, K, N, D) and (B, K, N, D_v); H is a multiple of K. What no row sees may hold anything.
        scaling: the factor on the products.
        seen: bool (B, K or 1, R or 1, N); None if every row sees every key.

    Returns:
        output: (B, H, R, D_v), float32 or the inputs' dtype, zero for rows that see nothing.
        lse: float32 (B, H, R) (float64 for such inputs), natural logarithm, -inf there.
    """
    (batch, heads, rows, _), (_, _, keys, wide) = query.shape, value.shape
    if not rows or not keys:
        dtype = torch.promote_types(query.dtype, torch.float32)
        return query.new_zeros(batch, heads, rows, wide), query.new_full((batch, heads, rows), -torch.inf, dtype=dtype)
    half = query.dtype in (torch.float16, torch.bfloat16)
    attend = _fused if (rows > _FEW or half) and fusible(query, key, value) else _chunked
    cpu = query.device.type == "cpu"
    if seen is not None and not cpu:
        key, value = _hide(key, value, seen)
    output, lse = attend(query, key, value, scaling, seen)
    # 0 times NaN is NaN. To look, and to copy only where something was found, is cheap on a CPU alone.
    if seen is not None and cpu and not output.isfinite().all():
        output, lse = attend(query, *_hide(key, value, seen), scaling, seen)
    if seen is not None:
        nothing = ~seen.any(-1).repeat_interleave(heads // seen.shape[1], 1)
        output, lse = output.masked_fill(nothing[..., None], 0), lse.masked_fill(nothing, -torch.inf)
    return output, lse


def _hide(key: Tensor, value: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros where no row sees."""
    unseen = ~seen.any(2)[..., None]
    return key.masked_fill(unseen, 0), value.masked_fill(unseen, 0)


def _fused(query: Tensor, key: Tensor, value: Tensor, scaling: float, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    mask = None
    if seen is not None:
        mask = torch.zeros(seen.shape, dtype=query.dtype).masked_fill_(~seen, -torch.inf)
        mask = mask.repeat_interleave(query.shape[1] // seen.shape[1], 1) if seen.shape[1] > 1 else mask
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask, scale=scaling
    )  # fmt: skip


def _chunked(query: Tensor, key: Tensor, value: Tensor, scaling: float, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """As many rows at a time as `chunk_of` allows, in float32 or better."""
    (batch, heads, rows, dim), (_, kv_heads, keys, wide) = query.shape, value.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    key, value = key.to(dtype).mT, value.to(dtype)
    grouped = query.to(dtype).reshape(batch, kv_heads, -1, rows, dim)
    size = max(1, chunk_of(query.device) // (batch * heads * keys))
    parts = []
    for first in range(0, rows, size):
        part = grouped[:, :, :, first : first + size]
        scores = (part.flatten(2, 3) @ key).view(*part.shape[:4], keys) * scaling
        if seen is not None:
            visible = seen if seen.shape[2] == 1 else seen[:, :, first : first + size]
            scores = scores.masked_fill(~visible[:, :, None], HIDDEN)
        # A constant to the gradient: neither output nor log-sum-exp depends on it.
        top = scores.detach().amax(-1, keepdim=True)
        shares = (scores - top).exp_()
        total = shares.sum(-1, keepdim=True)
        output = (shares.flatten(2, 3) @ value).view(*part.shape[:4], wide) / total
        parts.append((output.flatten(1, 2), (top + total.log()).squeeze(-1).flatten(1, 2)))
    if len(parts) == 1:
        return parts[0]
    return torch.cat([output for output, _ in parts], 2), torch.cat([lse for _, lse in parts], 2)
