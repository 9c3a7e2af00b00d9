"""Attention under a mask with its log-sum-exps, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels.attention_rows import HIDDEN, chunk_of


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, seen: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Softmax attention, as many rows at a time as `chunk_of` allows.

    Args:
        query: (B, H, R, D).
        key, value: (B, K, N, D) and (B, K, N, D_v); H is a multiple of K. What no row sees may hold anything.
        scaling: the factor on the products.
        seen: bool (B, K or 1, R or 1, N); None if every row sees every key.

    Returns:
        output: float32 (B, H, R, D_v) (float64 for such inputs), zero for rows that see nothing.
        lse: (B, H, R) of the same dtype, natural logarithm, -inf there.
    """
    (batch, heads, rows, dim), (_, kv_heads, keys, wide) = query.shape, value.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    if not rows or not keys:
        output = torch.zeros(batch, heads, rows, wide, dtype=dtype, device=query.device)
        return output, torch.full_like(output[..., 0], -torch.inf)
    key, value = key.to(dtype).mT, value.to(dtype)
    if seen is not None:
        value = value.masked_fill(~seen.any(2)[..., None], 0)  # 0 times NaN is NaN
    grouped = query.to(dtype).reshape(batch, kv_heads, -1, rows, dim)
    size = max(1, chunk_of(query.device) // (batch * heads * keys))
    parts = []
    for first in range(0, rows, size):
        part = grouped[:, :, :, first : first + size]
        scores = (part.flatten(2, 3) @ key).view(*part.shape[:4], keys) * scaling
        visible = None if seen is None or seen.shape[2] == 1 else seen[:, :, first : first + size]
        visible = seen if visible is None else visible
        if visible is not None:
            scores = scores.masked_fill(~visible[:, :, None], HIDDEN)
        # A constant to the gradient: neither output nor log-sum-exp depends on it.
        top = scores.detach().amax(-1, keepdim=True)
        shares = (scores - top).exp_()
        total = shares.sum(-1, keepdim=True)
        output = (shares.flatten(2, 3) @ value).view(*part.shape[:4], wide) / total
        lse = (top + total.log()).squeeze(-1)
        if visible is not None:
            nothing = ~visible.any(-1)[:, :, None]
            output, lse = output.masked_fill(nothing[..., None], 0), lse.masked_fill(nothing, -torch.inf)
        parts.append((output.flatten(1, 2), lse.flatten(1, 2)))
    if len(parts) == 1:
        return parts[0]
    return torch.cat([output for output, _ in parts], 2), torch.cat([lse for _, lse in parts], 2)
