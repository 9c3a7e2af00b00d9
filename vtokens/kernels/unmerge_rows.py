"""A few query rows over all copies of unique keys, without copies of the values: decoding after unmerging."""

from __future__ import annotations

import torch
from torch import Tensor


def unmerge_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    member: Tensor,
    cos: Tensor,
    sin: Tensor,
    scaling: float,
    unique: int,
    valid: Tensor | None = None,
) -> Tensor:
    """Attention that sees each unique key at all of its positions, and the keys behind them once.

    Scores need every copy, turned by its own angle. Probabilities of copies meet one value, so they are added up first.

    Args:
        query: (B, H, R, D), rotary embedding applied; rows see all keys.
        key: (B, H_kv, U + T, D), U unique ones, not rotated, and T ordinary ones; H is a multiple of H_kv.
        value: (B, H_kv, U + T, D_v).
        member: int64 (B, N), the unique key at each position, in [0, U).
        cos, sin: (B or 1, N, D) rotary embedding of each position, the two halves of D alike.
        scaling: the factor on the products.
        unique: U.
        valid: bool (B, N + T), False on positions nobody may attend to; None if there are none.

    Returns:
        (B, H, R, D_v), in the dtype of `value`; probabilities are float32 throughout.
    """
    (batch, heads, rows, dim), kv_heads = query.shape, key.shape[1]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * rows, dim).float()
    # Pairs of dimensions d and d + D/2 as complex numbers, which one product turns; the query is laid out alike.
    paired = torch.stack(grouped.chunk(2, -1), -1).flatten(-2)
    copies = _turned(key[:, :, :unique], member, cos, sin)
    own = key[:, :, unique:].float()
    scores = torch.cat([paired @ copies.permute(0, 2, 3, 1), grouped @ own.transpose(-1, -2)], -1) * scaling
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None, None], -torch.inf)
    probability = scores.softmax(-1)
    shared, rest = probability.split([member.shape[1], own.shape[2]], -1)
    total = shared.new_zeros(*shared.shape[:-1], unique)
    total = total.scatter_add(-1, member[:, None, None].expand_as(shared), shared)
    output = torch.cat([total, rest], -1).to(value.dtype) @ value
    return output.view(batch, heads, rows, -1)


def _turned(key: Tensor, member: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """float32 (B, N, H_kv, D): a rotated copy of keys (B, H_kv, U, D) for each position, d and d + D/2 side by side."""
    batch, half = torch.arange(len(member), device=member.device)[:, None], key.shape[-1] // 2
    # Copied as whole rows of all heads, which is what makes the copies cheap.
    pairs = torch.complex(*key.transpose(1, 2).float().split(half, -1))
    angle = torch.complex(cos[..., :half].float(), sin[..., :half].float())
    return torch.view_as_real(pairs[batch, member] * angle[:, :, None]).flatten(-2)
