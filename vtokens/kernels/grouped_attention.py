"""Attention split by groups of keys, so that any reweighting of whole groups is exact without the attention matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels.attention_rows import chunk_of


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
        group: int64 (B, N), the group of each key in [0, groups), or -1 where nobody may attend (padding).
        groups: how many groups there are.
        scaling: the factor on the products, usually 1 / sqrt(D).
        position: int64 (B, R) key index of each row; keys after it are masked (causal). None: all keys are seen.

    Returns:
        outputs: float32 (groups, B, H, R, D_v), zero where a row sees no key of the group.
        lse: float32 (groups, B, H, R), natural logarithm, -inf there. Each group has a maximum of its own, so none
            underflows however far it lies below another.
    """
    batch, heads, rows, _ = query.shape
    outputs = value.new_empty(groups, batch, heads, rows, value.shape[-1], dtype=torch.float32)
    lse = value.new_empty(groups, batch, heads, rows, dtype=torch.float32)
    member = group[:, None] == torch.arange(groups, device=group.device)[:, None]
    chunk = max(1, chunk_of(query.device) // max(1, groups * batch * heads * key.shape[2]))
    for first in range(0, rows, chunk):
        part = slice(first, first + chunk)
        where = None if position is None else position[:, part]
        outputs[..., part, :], lse[..., part] = _rows(query[:, :, part], key, value, member, scaling, where)
    return outputs, lse


def _rows(
    query: Tensor, key: Tensor, value: Tensor, member: Tensor, scaling: float, position: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One chunk of rows; `member` is bool (B, G, N)."""
    (batch, heads, rows, dim), (_, kv_heads, keys, wide) = query.shape, value.shape
    groups, shared = member.shape[1], heads // kv_heads
    # Products in the model's own precision, as a fused kernel makes them; the softmax in float32.
    scores = query.reshape(batch, kv_heads, shared * rows, dim) @ key.transpose(-1, -2)
    scores = scores.float().view(batch, kv_heads, shared, rows, 1, keys).mul_(scaling)
    seen = member[:, None, None, None]
    if position is not None:
        causal = torch.arange(keys, device=key.device) <= position[..., None]
        seen = seen & causal[:, None, None, :, None]
    scores = torch.where(seen, scores, -torch.inf)
    top = scores.amax(-1, keepdim=True)
    shares = scores.sub_(top.masked_fill(top == -torch.inf, 0)).exp_()
    total = shares.sum(-1, keepdim=True)
    # One product for all groups: each key and each value is read once, whatever the number of groups.
    outputs = shares.view(batch, kv_heads, -1, keys).to(value.dtype) @ value
    outputs = outputs.float().view(batch, heads, rows, groups, wide)
    total, top = total.view(batch, heads, rows, groups), top.view(batch, heads, rows, groups)
    outputs = outputs / total.masked_fill(total == 0, 1)[..., None]
    lse = top + total.log()
    return outputs.movedim(3, 0), lse.movedim(3, 0)


def group_weights(lse: Tensor) -> Tensor:
    """The share of attention each group holds: softmax of (G, B, H, R) log-sum-exps over groups; rows without keys are zero."""
    whole = lse.logsumexp(0)
    return (lse - whole.masked_fill(whole == -torch.inf, 0)).exp()


def reweigh(outputs: Tensor, weights: Tensor) -> Tensor:
    """The attention output (B, H, R, D_v) of group outputs (G, B, H, R, D_v) under weights (G, B, H, R)."""
    return torch.einsum("gbhr,gbhrd->bhrd", weights, outputs)
