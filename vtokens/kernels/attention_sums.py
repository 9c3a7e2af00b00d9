"""What chosen rows attend to, summed over the rows: by key and by distance, without the rows themselves."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vtokens.kernels._dispatch import use_triton
from vtokens.kernels._precision import as_given

BAND = 64
"""Distances are counted in bands of this many keys."""
_CHUNK = 1 << 22
"""Most scores held at once, in elements: 16 MiB."""
_KEPT = 1 << 24
"""Scores are kept between the two passes over the keys up to this many elements, 64 MiB, and computed twice beyond."""


@as_given
def attention_sums(
    query: Tensor, key: Tensor, scaling: float, position: Tensor, group: Tensor, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Attention probabilities of some rows, summed over them by key and by how far a key lies before its row.

    The columns and diagonals that stand out in these sums are MInference's vertical and slash lines, and sums over
    every s-th column those of MMInference's grid. Diagonals are taken 64 together: in an aligned block of 64 keys a row
    meets two of these bands, so two masked sums a block give them exactly.

    Args:
        query: (B, H, R, D), the rows only, rotary embedding applied.
        key: (B, H_kv, N, D); H is a multiple of H_kv (grouped-query attention).
        scaling: the factor on the products.
        position: int64 (B, R), the key index of each row; keys after it are masked. A row at -1 counts for nothing.
        group: int (B, N), the group of each key in [0, groups); keys with another value are attended to by nobody.
        groups: how many groups the bands are split into.

    Returns:
        column: float32 (B, H, N), the sum of each key over rows; over all keys they add up to the rows.
        band: float32 (B, H, groups, ceil(N / 64)): entry d is the sum over pairs in which the key lies 64 d to
            64 d + 63 before the row, split by the key's group.

    Raises:
        ValueError: the shapes do not fit together.
    """
    (batch, heads, rows, _), (_, kv_heads, keys, _) = query.shape, key.shape
    if heads % kv_heads or position.shape != (batch, rows) or group.shape != (batch, keys):
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)}, position {tuple(position.shape)} and group "
            f"{tuple(group.shape)} do not fit: they must be (B, H, R, D), (B, H_kv, N, D), (B, R) and (B, N), with H a "
            "multiple of H_kv"
        )
    if not keys or not rows:
        return query.new_zeros(batch, heads, keys, dtype=torch.float32), query.new_zeros(
            batch, heads, groups, -(-keys // BAND), dtype=torch.float32
        )
    if use_triton(query, key):
        from vtokens.kernels._triton.attention_sums import attention_sums as fused

        column, parts = fused(query, key, scaling, position, group, groups)
    else:
        column, parts = _plain(query, key, scaling, position, group, groups)
    return column, bands(parts, position)


def _plain(
    query: Tensor, key: Tensor, scaling: float, position: Tensor, group: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """Column sums (B, H, N), and for each row and block of 64 keys its two bands (B, H, R, blocks, groups, 2)."""
    (batch, heads, rows, dim), (_, kv_heads, keys, _) = query.shape, key.shape
    # Products of half-precision numbers are kept in float32, as a fused kernel does.
    wide = torch.promote_types(query.dtype, torch.float32)
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * rows, dim).to(wide)
    size = max(BAND, _CHUNK // (batch * heads * rows) // BAND * BAND)
    place = torch.arange(keys, device=key.device)

    def scores(first: int) -> Tensor:
        """(B, H, R, C) float32 to the base of 2, -inf where a row does not see a key."""
        part = slice(first, first + size)
        products = (grouped @ key[:, :, part].to(wide).transpose(-1, -2)).float().view(batch, heads, rows, -1)
        inside = (group[:, part] >= 0) & (group[:, part] < groups)
        seen = inside[:, None] & (place[part] <= position[..., None])
        return products.mul_(scaling / math.log(2)).masked_fill_(~seen[:, None], -torch.inf)

    starts = range(0, keys, size)
    kept = [scores(first) for first in starts] if batch * heads * rows * keys <= _KEPT else None
    top = torch.full((batch, heads, rows, 1), -torch.inf, device=key.device)
    total = torch.zeros_like(top)
    for number, first in enumerate(starts):
        part = scores(first) if kept is None else kept[number]
        new = torch.maximum(top, part.amax(-1, keepdim=True)).clamp_(min=torch.finfo(torch.float32).min)
        total = total * (top - new).exp2_() + (part - new).exp2_().sum(-1, keepdim=True)
        top = new
    # Rows that see nothing have shares of 0 under any sum.
    lse = top + total.masked_fill_(total == 0, 1).log2_()
    # Keys of a block up to the row's own place in its block lie in the nearer band, the others in the one behind.
    nearer = torch.arange(BAND, device=key.device) <= (position % BAND)[..., None]
    halves = torch.stack([nearer, ~nearer], -1).float()
    columns, parts = [], []
    for number, first in enumerate(starts):
        share = (scores(first) if kept is None else kept[number]).sub_(lse).exp2_()
        columns.append(share.sum(2))
        pad = -share.shape[-1] % BAND
        share = torch.nn.functional.pad(share, (0, pad)).view(batch, heads, rows, -1, 1, BAND)
        if groups > 1:
            member = group[:, first : first + size, None] == torch.arange(groups, device=key.device)
            member = torch.nn.functional.pad(member, (0, 0, 0, pad)).view(batch, 1, 1, -1, BAND, groups)
            share = share * member.transpose(-1, -2)
        parts.append(share @ halves[:, None, :, None])
    return torch.cat(columns, -1), torch.cat(parts, 3)


def bands(parts: Tensor, position: Tensor) -> Tensor:
    """Bands float32 (B, H, groups, blocks) from sums (B, H, R, blocks, groups, 2) by row, block and half."""
    batch, heads, _, blocks, groups, _ = parts.shape
    away = position[..., None] // BAND - torch.arange(blocks, device=parts.device)  # (B, R, blocks)
    away = torch.stack([away, away - 1], -1)
    # Bands below 0 hold keys after the row, whose shares are 0.
    index = away.clamp(0, blocks - 1).reshape(batch, 1, 1, -1).expand(-1, heads, groups, -1)
    flat = parts.permute(0, 1, 4, 2, 3, 5).reshape(batch, heads, groups, -1)
    return torch.zeros(batch, heads, groups, blocks, device=parts.device).scatter_add_(-1, index, flat)
