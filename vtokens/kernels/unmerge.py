"""Attention over a full sequence of which only the unique tokens are stored (virtual token unmerging).

VTU of DyMU (arXiv:2504.17040). Merged tokens differ in nothing but their position, so queries, keys and values are kept
once, before the rotary embedding, and each copy is rotated by its own position when scores are made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def first_equal(values: Tensor) -> Tensor:
    """int64 (G, M): for each entry of `values` (G, M) the first place in its row that holds the same."""
    order = values.argsort(dim=1, stable=True)
    ordered = values.gather(1, order)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = torch.arange(values.shape[1], device=values.device)
    # A stable sort leaves the earliest of equal entries first in their run.
    run = torch.where(starts, place, 0).cummax(1).values
    return torch.empty_like(order).scatter_(1, order, order.gather(1, run))


def unfold(states: Tensor, member: Tensor) -> Tensor:
    """Copies of unique states: (B, H, U, D) -> (B, H, N, D), position n holding row `member[b, n]`.

    Args:
        states: (B, H, U, D).
        member: int64 (B, N) into U; below 0 is padding, which takes row 0.
    """
    batch = torch.arange(len(member), device=member.device)[:, None]
    return states.transpose(1, 2)[batch, member.clamp(min=0)].transpose(1, 2)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotary embedding of states (B, H, N, D), dimension d paired with d + D/2.

    Args:
        states: un-rotated queries or keys.
        cos, sin: (B or 1, N, D) of each position's angles.
    """
    first, second = states.chunk(2, dim=-1)
    return states * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


def group_mean(states: Tensor, member: Tensor, unique: int) -> Tensor:
    """Mean over the copies of each unique token: (B, H, N, D) -> (B, H, U, D), summed in float32.

    Args:
        states: one row a position.
        member: int64 (B, N) into U; positions below 0 belong to nobody.
        unique: U. Rows without members are zero.
    """
    batch, heads, length, dim = states.shape
    weight = (member >= 0).float()
    start = unique * torch.arange(batch, device=member.device)[:, None]
    flat = (member.clamp(min=0) + start).flatten()
    count = torch.zeros(batch * unique, device=states.device).index_add_(0, flat, weight.flatten())
    # Weights first: exactly 1 for a token of its own, and no sum leaves the range of its parts.
    weight = weight.flatten() / count[flat].clamp(min=1)
    rows = states.transpose(1, 2).reshape(batch * length, heads * dim).float() * weight[:, None]
    mean = torch.zeros(batch * unique, heads * dim, device=states.device).index_add(0, flat, rows)
    return mean.to(states.dtype).view(batch, unique, heads, dim).transpose(1, 2)


def unmerge_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    member: Tensor,
    cos: Tensor,
    sin: Tensor,
    attention: Attention | None = None,
) -> Tensor:
    """Causal attention as if every merged token stood at all of its positions; each keeps the mean of its outputs.

    Equal to attention over the full sequence as long as copies are equal, which holds in the first layer.

    Args:
        query: (B, H, U, D), unique and un-rotated.
        key: (B, H_kv, U, D), the same; H is a multiple of H_kv.
        value: (B, H_kv, U, D_v).
        member: int64 (B, N), the unique row of each position, below 0 on padding.
        cos, sin: (B or 1, N, D) rotary embedding of each position.
        attention: maps rotated q (B, H, N, D), k and v (B, H_kv, N, D) to (B, H, N, D_v), with the caller's own mask;
            None is scaled-dot-product attention, causal and blind to padding.

    Returns:
        (B, H, U, D_v), zero for unique rows that have no position.
    """
    if attention is None:
        attention = partial(_causal, valid=member >= 0)
    full = attention(
        rotate(unfold(query, member), cos, sin), rotate(unfold(key, member), cos, sin), unfold(value, member)
    )
    return group_mean(full, member, query.shape[2])


def _causal(query: Tensor, key: Tensor, value: Tensor, valid: Tensor) -> Tensor:
    length = valid.shape[1]
    place = torch.arange(length, device=valid.device)
    # A row may see itself whatever it is, so that no row of padding is without a key.
    seen = (place[:, None] >= place) & (valid[:, None] | (place[:, None] == place))
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen[:, None], enable_gqa=query.shape[1] != key.shape[1]
    )
