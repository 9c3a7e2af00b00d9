"""Attention split by groups of keys, so that any reweighting of whole groups is exact without the attention matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels.attention_rows import chunk_of

_FAINT = 1e-26
"""Below this share of the row's largest term, float32 starts to lose the terms of a group (it ends near 1e-38)."""


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
    outputs = value.new_empty(groups, batch, heads, rows, value.shape[-1], dtype=torch.float32)
    lse = value.new_empty(groups, batch, heads, rows, dtype=torch.float32)
    if keys == 0:
        return outputs.zero_(), lse.fill_(-torch.inf)
    member = group[:, None] == torch.arange(groups, device=group.device)[:, None]
    chunk = max(1, chunk_of(query.device) // max(1, groups * batch * heads * keys))
    for first in range(0, rows, chunk):
        part = slice(first, first + chunk)
        where = None if position is None else position[:, part]
        scores, exists = _scores(query[:, :, part], key, member, scaling, where)
        outputs[..., part, :], lse[..., part] = _split(scores, value, group, member, exists)
    return outputs, lse


def _scores(
    query: Tensor, key: Tensor, member: Tensor, scaling: float, position: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scores (B, H_kv, H / H_kv, R, N), -inf where nothing may be seen; and whether a row sees a group, (B, R, G)."""
    (batch, heads, rows, dim), (_, kv_heads, keys, _) = query.shape, key.shape
    shared = heads // kv_heads
    # Products in the model's own precision, as a fused kernel makes them; the softmax in float32.
    scores = query.reshape(batch, kv_heads, shared * rows, dim) @ key.transpose(-1, -2)
    scores = scores.float().view(batch, kv_heads, shared, rows, keys).mul_(scaling)
    hidden = ~member.any(1)[:, None, None, None]
    place = torch.arange(keys, device=key.device)
    if position is None:
        return scores.masked_fill_(hidden, -torch.inf), member.any(-1)[:, None].expand(-1, rows, -1)
    hidden = hidden | (place > position[..., None])[:, None, None]
    earliest = torch.where(member, place, keys).amin(-1)
    return scores.masked_fill_(hidden, -torch.inf), earliest[:, None] <= position[..., None]


def _split(scores: Tensor, value: Tensor, group: Tensor, member: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (G, B, H, R, D_v) and log-sum-exps (G, B, H, R) from scores, which are consumed."""
    batch, kv_heads, shared, rows, keys = scores.shape
    member, exists = member[:, None, None, None], exists[:, None, None]
    # One maximum a row costs one pass over the scores, one a group costs a pass each. The first does unless a group all
    # but vanishes beside another; to ask is free on a CPU, and would make an accelerator wait.
    shares = total = top = scores
    # float16 has no room for small shares at all.
    exact = scores.device.type != "cpu" or value.dtype == torch.float16
    if not exact:
        top = _finite(scores.amax(-1, keepdim=True))
        shares = (scores - top).exp_().unsqueeze(-2) * member
        total = shares.sum(-1)
        exact = bool(((total < _FAINT) & exists).any())
    if exact:
        top = _finite(torch.where(member, scores.unsqueeze(-2), -torch.inf).amax(-1))
        own = top.gather(-1, group.clamp(0, top.shape[-1] - 1)[:, None, None, None].expand(scores.shape))
        shares = scores.sub_(own).exp_().unsqueeze(-2) * member
        total = shares.sum(-1)
    # One product for all groups: each value is read once, whatever the number of groups.
    outputs = shares.view(batch, kv_heads, -1, keys).to(value.dtype) @ value
    outputs = outputs.float().view(batch, kv_heads * shared, rows, member.shape[-2], -1)
    lse = (top + total.log()).view(outputs.shape[:-1])
    outputs = outputs / total.masked_fill(total == 0, 1).view(*lse.shape, 1)
    return outputs.movedim(3, 0), lse.movedim(3, 0)


def _finite(top: Tensor) -> Tensor:
    """Maxima to subtract: 0 where there is nothing to subtract them from, as -inf - -inf is no number."""
    return top.masked_fill_(top == -torch.inf, 0)


def group_weights(lse: Tensor) -> Tensor:
    """Softmax over groups of log-sum-exps (G, B, H, R): each group's share of attention; a row without keys is zero."""
    weights = (lse - _finite(lse.amax(0))).exp()
    return weights / weights.sum(0).clamp(min=1)


def reweigh(outputs: Tensor, weights: Tensor) -> Tensor:
    """The attention output (B, H, R, D_v) of group outputs (G, B, H, R, D_v) under weights (G, B, H, R)."""
    return torch.einsum("gbhr,gbhrd->bhrd", weights, outputs)
