"""The steps of grouped attention in plain PyTorch: scores, shares of rows and groups, products with the values."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vtokens.kernels.attention_rows import HIDDEN, capped, chunk_of
from vtokens.kernels.gathered_attention import reference

_FAINT = 1e-26
"""Below this share of a row float32 begins to lose the terms of a group; it ends near 1e-38."""


def membership(group: Tensor, groups: int) -> Tensor:
    """bool (B, G, N)."""
    return group[:, None] == torch.arange(groups, device=group.device)[:, None]


def chunks(query: Tensor, key: Tensor, groups: int, position: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Rows and their positions, so many at a time that their scores for all groups fit in `chunk_of`; at least once."""
    batch, heads, total, _ = query.shape
    size = max(1, chunk_of(query.device) // max(1, groups * batch * heads * key.shape[2]))
    for first in range(0, max(1, total), size):
        part = slice(first, first + size)
        yield query[:, :, part], None if position is None else position[:, part]


def joined(parts: list[tuple[Tensor, Tensor]], dim: int) -> tuple[Tensor, Tensor]:
    """Results of all chunks; rows are dimension `dim` of the first and the last of the second."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([one for one, _ in parts], dim), torch.cat([other for _, other in parts], -1)


def listed(
    query: Tensor, key: Tensor, value: Tensor, member: Tensor, scaling: float, position: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs and log-sum-exps, each group's over its own keys side by side: as many products as without groups."""
    place, parts = torch.arange(key.shape[2]), []
    for mine in member.unbind(1):
        most = int(mine.sum(1).max()) if len(mine) else 0
        index = torch.where(mine, place, -1).sort(1).values[:, len(place) - most :]
        parts.append(reference(query, key, value, index[:, None], scaling, position))
    return torch.stack([output.float() for output, _ in parts]), torch.stack([lse for _, lse in parts])


def masked_scores(
    query: Tensor, key: Tensor, member: Tensor, scaling: float, position: Tensor | None, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Scores float32 (B, H_kv, H / H_kv, R, N), and which keys a row may see, (B, R, N) or (B, 1, N)."""
    (batch, heads, rows, dim), (_, kv_heads, keys, _) = query.shape, key.shape
    shared = heads // kv_heads
    seen = member.any(1, keepdim=True)
    if position is not None:
        seen = seen & (torch.arange(keys, device=key.device) <= position[..., None])
    # Products of half-precision numbers are kept in float32, as a fused kernel keeps them.
    wide = torch.promote_types(query.dtype, torch.float32)
    products = query.to(wide).reshape(batch, kv_heads, shared * rows, dim) @ key.to(wide).transpose(-1, -2)
    mask = torch.where(seen, 0.0, HIDDEN)[:, None, None]
    products = products.view(batch, kv_heads, shared, rows, keys)
    if softcap is not None:
        return mask + capped(products * scaling, softcap).float(), seen
    return torch.add(mask, products, alpha=scaling).float(), seen


def split(scores: Tensor, seen: Tensor, value: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (G, B, H, R, D_v) and log-sum-exps (G, B, H, R)."""
    batch, kv_heads, *_, keys = scores.shape
    shares, total, lse = _by_row(scores, seen, member, value.dtype) or _by_group(scores, member)
    # One product for all groups: each value is read once, whatever the number of groups.
    outputs = shares.view(batch, kv_heads, -1, keys).to(value.dtype) @ value
    outputs = outputs.float().view(*total.shape, value.shape[-1]) / total[..., None]
    outputs = outputs.masked_fill((lse == -torch.inf)[..., None], 0)
    return outputs.flatten(1, 2).movedim(3, 0), lse.flatten(1, 2).movedim(3, 0)


def reweighed(
    scores: Tensor, seen: Tensor, value: Tensor, member: Tensor, change: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Output (B, H, R, D_v) and weights before the change (G, B, H, R)."""
    batch, kv_heads, shared, rows, keys = scores.shape
    belongs = member.float()
    shares = scores.softmax(-1)
    total = _sums(shares, belongs) * seen.any(-1)[:, None, None, :, None]
    before = total.flatten(1, 2).movedim(3, 0)
    after = change(before)
    if ((before < _FAINT) & (after > before)).any():  # what float32 has lost cannot be scaled up again
        outputs, _ = split(scores, seen, value, member)
        return torch.einsum("gbhr,gbhrd->bhrd", after, outputs), before
    factor = after / before.masked_fill(before == 0, 1)
    factor = factor.movedim(0, 3).reshape(batch, -1, len(after)) @ belongs
    shares = shares * factor.view(shares.shape)
    output = shares.view(batch, kv_heads, -1, keys).to(value.dtype) @ value
    return output.float().view(batch, kv_heads * shared, rows, -1), before


def _sums(shares: Tensor, belongs: Tensor) -> Tensor:
    """The sum over each group, (..., G), of shares (B, ..., N), by float32 (B, G, N)."""
    sums = shares.view(len(belongs), -1, shares.shape[-1]) @ belongs.transpose(1, 2)
    return sums.view(*shares.shape[:-1], belongs.shape[1])


def _by_row(scores: Tensor, seen: Tensor, member: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor] | None:
    """Unnormalised shares (B, H_kv, H / H_kv, R, G, N), their sums over N and log-sum-exps, by one softmax a row.

    None where a group all but vanishes beside another, so that each needs a maximum of its own. To ask is free on a
    CPU, but would make an accelerator wait. In float16 small shares vanish long before.
    """
    if scores.device.type != "cpu" or dtype == torch.float16:
        return None
    belongs = member.float()
    shares = scores.softmax(-1)
    total = _sums(shares, belongs)
    faint = total < _FAINT
    if faint.any() and (faint & (_sums(seen.float(), belongs) > 0)[:, None, None]).any():
        return None
    top = scores.amax(-1, keepdim=True)
    empty = (total == 0) | (top <= HIDDEN / 2)
    total = total.masked_fill(empty, 1)
    lse = (top - shares.amax(-1, keepdim=True).log() + total.log()).masked_fill(empty, -torch.inf)
    return shares.unsqueeze(-2) * belongs[:, None, None, None], total, lse


def _by_group(scores: Tensor, member: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `_by_row`, by a softmax for each row and group."""
    scores = torch.where(member[:, None, None, None], scores.unsqueeze(-2), HIDDEN)
    shares, top = scores.softmax(-1), scores.amax(-1)
    lse = top - shares.amax(-1).log()
    return shares, torch.ones_like(lse), lse.masked_fill(top <= HIDDEN / 2, -torch.inf)
