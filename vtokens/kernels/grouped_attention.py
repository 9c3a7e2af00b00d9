"""Attention split by groups of keys, so that any reweighting of whole groups is exact without the attention matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels._dispatch import use_triton
from vtokens.kernels.attention_rows import chunk_of

_HIDDEN = torch.finfo(torch.float32).min
"""The score of a key that a row may not see: unlike -inf it leaves rows that see nothing without NaN."""
_FAINT = 1e-26
"""Below this share of a row float32 begins to lose the terms of a group; it ends near 1e-38."""


def grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: Tensor,
    groups: int,
    scaling: float,
    position: Tensor | None = None,
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

    Returns:
        outputs: float32 (groups, B, H, R, D_v), zero where a row sees no key of the group.
        lse: float32 (groups, B, H, R), natural logarithm, -inf there. A group keeps its digits however far it lies
            below another.

    Raises:
        ValueError: the shapes do not fit together.
    """
    batch, heads, rows, _ = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    if heads % kv_heads or value.shape[:3] != key.shape[:3] or group.shape != (batch, keys):
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)} and group "
            f"{tuple(group.shape)} do not fit: they must be (B, H, R, D), (B, H_kv, N, D), (B, H_kv, N, D_v) and "
            "(B, N), with H a multiple of H_kv"
        )
    if keys == 0:
        outputs = value.new_zeros(groups, batch, heads, rows, value.shape[-1], dtype=torch.float32)
        return outputs, outputs.new_full(outputs.shape[:-1], -torch.inf)
    if use_triton(query, key, value):
        from vtokens.kernels._triton.grouped import grouped_attention as fused

        return fused(query, key, value, group, groups, scaling, position)
    member = group[:, None] == torch.arange(groups, device=group.device)[:, None]
    chunk = max(1, chunk_of(query.device) // max(1, groups * batch * heads * keys))
    parts = []
    for first in range(0, max(1, rows), chunk):
        part = slice(first, first + chunk)
        where = None if position is None else position[:, part]
        scores, seen = _scores(query[:, :, part], key, member, scaling, where)
        parts.append(_split(scores, seen, value, member))
    if len(parts) == 1:
        return parts[0]
    return torch.cat([outputs for outputs, _ in parts], 3), torch.cat([lse for _, lse in parts], 3)


def _scores(
    query: Tensor, key: Tensor, member: Tensor, scaling: float, position: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scores float32 (B, H_kv, H / H_kv, R, N), and which keys a row may see, (B, R, N) or (B, 1, N)."""
    (batch, heads, rows, dim), (_, kv_heads, keys, _) = query.shape, key.shape
    shared = heads // kv_heads
    seen = member.any(1, keepdim=True)
    if position is not None:
        seen = seen & (torch.arange(keys, device=key.device) <= position[..., None])
    # Products in the model's own precision, as a fused kernel makes them; the softmax in float32.
    products = query.reshape(batch, kv_heads, shared * rows, dim) @ key.transpose(-1, -2)
    mask = torch.where(seen, 0.0, _HIDDEN)[:, None, None]
    products = products.view(batch, kv_heads, shared, rows, keys)
    return torch.add(mask, products, alpha=scaling).float(), seen


def _split(scores: Tensor, seen: Tensor, value: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (G, B, H, R, D_v) and log-sum-exps (G, B, H, R)."""
    batch, kv_heads, *_, keys = scores.shape
    shares, total, lse = _by_row(scores, seen, member, value.dtype) or _by_group(scores, member)
    # One product for all groups: each value is read once, whatever the number of groups.
    outputs = shares.view(batch, kv_heads, -1, keys).to(value.dtype) @ value
    outputs = outputs.float().view(*total.shape, value.shape[-1]) / total[..., None]
    outputs = outputs.masked_fill((lse == -torch.inf)[..., None], 0)
    return outputs.flatten(1, 2).movedim(3, 0), lse.flatten(1, 2).movedim(3, 0)


def _by_row(scores: Tensor, seen: Tensor, member: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor] | None:
    """Unnormalised shares (B, H_kv, H / H_kv, R, G, N), their sums over N and log-sum-exps, by one softmax a row.

    None where a group all but vanishes beside another, so that each needs a maximum of its own. To ask is free on a
    CPU, but would make an accelerator wait. In float16 small shares vanish long before.
    """
    batch, *_, keys = scores.shape
    if scores.device.type != "cpu" or dtype == torch.float16:
        return None
    belongs = member.float()
    shares = scores.softmax(-1)
    total = (shares.view(batch, -1, keys) @ belongs.transpose(1, 2)).view(*scores.shape[:-1], member.shape[1])
    faint = total < _FAINT
    if faint.any() and (faint & ((seen.float() @ belongs.transpose(1, 2)) > 0)[:, None, None]).any():
        return None
    top = scores.amax(-1, keepdim=True)
    empty = (total == 0) | (top <= _HIDDEN / 2)
    total = total.masked_fill(empty, 1)
    lse = (top - shares.amax(-1, keepdim=True).log() + total.log()).masked_fill(empty, -torch.inf)
    return shares.unsqueeze(-2) * belongs[:, None, None, None], total, lse


def _by_group(scores: Tensor, member: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `_by_row`, by a softmax for each row and group."""
    scores = torch.where(member[:, None, None, None], scores.unsqueeze(-2), _HIDDEN)
    shares, top = scores.softmax(-1), scores.amax(-1)
    lse = top - shares.amax(-1).log()
    return shares, torch.ones_like(lse), lse.masked_fill(top <= _HIDDEN / 2, -torch.inf)


def group_weights(lse: Tensor) -> Tensor:
    """Softmax over groups of log-sum-exps (G, B, H, R): each group's share of attention; a row without keys is zero."""
    return lse.clamp(min=_HIDDEN).softmax(0) * (lse != -torch.inf)


def reweigh(outputs: Tensor, weights: Tensor) -> Tensor:
    """The attention output (B, H, R, D_v) of group outputs (G, B, H, R, D_v) under weights (G, B, H, R)."""
    return torch.einsum("gbhr,gbhrd->bhrd", weights, outputs)
