"""Attention over a full sequence of which only the unique tokens are stored (virtual token unmerging).

VTU of DyMU (arXiv:2504.17040). Merged tokens differ in nothing but their position, so queries, keys and values are kept
once, before the rotary embedding, and each copy is rotated by its own position when scores are made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vtokens.kernels._check import check_range, check_shape, check_states
from vtokens.kernels.group_mean import group_mean
from vtokens.kernels.grouped_attention import grouped_attention
from vtokens.kernels.unfold import unfold

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

    Raises:
        TypeError: dtypes that differ, or are no floating point; a map that is no integer.
        ValueError: shapes that do not fit together, heads of an odd number of channels, a map beyond U (on an
            accelerator a failed assertion of the device, which nothing waits for).
    """
    check_states(query, key, value)
    (batch, _, unique, dim), length = query.shape, member.shape[-1]
    if key.shape[2] != unique or dim % 2:
        raise ValueError(
            f"query and key are {tuple(query.shape)} and {tuple(key.shape)}: as many rows in both and an even number "
            "of channels are needed"
        )
    check_shape("member", member, (batch, length))
    check_range("member", member, None, unique - 1)
    for name, part in (("cos", cos), ("sin", sin)):
        check_shape(name, part, (batch, length, dim), (1, length, dim))
    if attention is None:
        attention = partial(_causal, valid=member >= 0)
    full = attention(unfold(query, member, cos, sin), unfold(key, member, cos, sin), unfold(value, member))
    return group_mean(full, member, unique)


def _causal(query: Tensor, key: Tensor, value: Tensor, valid: Tensor) -> Tensor:
    if valid.device.type == "cpu" and valid.all():
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=query.shape[1] != key.shape[1]
        )
    # Padding needs a mask of N x N there, and none here.
    place = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
    outputs, _ = grouped_attention(query, key, value, valid.long() - 1, 1, query.shape[-1] ** -0.5, place)
    return outputs[0].to(value.dtype)
