"""Block-sparse attention in one launch for all heads and patterns: a program takes one list of key tiles, or a part.

Queries and keys are gathered through their slots as they are loaded. The tiles of a list that need no mask come first,
in a loop of their own. Programs with long lists start first; the longest lists are shared by several programs, whose
results a second kernel merges.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vtokens.kernels._dispatch import interpreted
from vtokens.kernels.tiles import Tiles

_CHUNK = 256
"""Tiles of a list that one program takes, where a list is shared."""
_SHARES = 1024
"""Most shares whose results are held until they are merged: 64 MiB for tiles of 128 rows and 128 channels."""


@triton.jit
def _visit(
    q, last, tile, slots, key, value, k_row, v_row, scale, top, total, sums,
    DIM: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_W: tl.constexpr,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    n, d, w = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_W)
    slot = tl.load(slots + tile.to(tl.int64) * BLOCK_N + n)
    far = tl.maximum(slot, 0).to(tl.int64)
    if DIM == BLOCK_D:
        k = tl.load(key + far[None, :] * k_row + d[:, None])
    else:
        k = tl.load(key + far[None, :] * k_row + d[:, None], mask=(d < DIM)[:, None], other=0.0)
    if WIDE == BLOCK_W:
        v = tl.load(value + far[:, None] * v_row + w[None, :])
    else:
        v = tl.load(value + far[:, None] * v_row + w[None, :], mask=(w < WIDE)[None, :], other=0.0)
    if UPCAST:
        k, v = k.to(tl.float32), v.to(tl.float32)
    scores = tl.dot(q, k, input_precision="ieee") * scale
    if MASKED:
        seen = (slot >= 0)[None, :]
        if CAUSAL:
            seen = seen & (slot[None, :] <= last[:, None])
        scores = tl.where(seen, scores, float("-inf"))
    new = tl.maximum(top, tl.max(scores, 1))
    base = tl.where(new == float("-inf"), 0.0, new)
    shares = tl.exp2(scores - base[:, None])
    decay = tl.exp2(top - base)
    total = total * decay + tl.sum(shares, 1)
    sums = sums * decay[:, None] + tl.dot(shares.to(v.dtype), v, input_precision="ieee")
    return new, total, sums


@triton.jit
def _attend(
    query, key, value, output, lse, parts, part_lse, q_slot, k_slot, ids, start, count, full, heads, work,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_row, o_head,
    plans, q_tiles, k_tiles, shared, rows, all_heads, offset, chunk, scale,
    DIM: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_W: tl.constexpr, CAUSAL: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    entry = work + tl.program_id(0).to(tl.int64) * 3
    item, begin, share = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    if item >= 0:
        far = item.to(tl.int64)
        plan = far // q_tiles
        batch = plan // plans
        head = tl.load(heads + plan % plans).to(tl.int64)
        m, d, w = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_W)
        row = tl.load(q_slot + far * BLOCK_M + m)
        real = row >= 0
        place = row.to(tl.int64)
        q_at = query + batch * q_batch + head * q_head + place[:, None] * q_row + d[None, :]
        q = tl.load(q_at, mask=real[:, None] & (d < DIM)[None, :], other=0.0)
        if UPCAST:
            q = q.to(tl.float32)
        last = row + offset
        first, end, unmasked = tl.load(start + far), tl.load(count + far), tl.load(full + far)
        if share >= 0:
            end = tl.minimum(end, begin + chunk)
        slots = k_slot + plan * k_tiles * BLOCK_N
        k_at = key + batch * k_batch + (head // shared) * k_head
        v_at = value + batch * v_batch + (head // shared) * v_head
        top = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        sums = tl.zeros([BLOCK_M, BLOCK_W], tl.float32)
        for t in range(begin, tl.minimum(end, unmasked)):
            tile = tl.load(ids + first + t, mask=first >= 0, other=0)
            tile = tl.where(first >= 0, tile, t)
            top, total, sums = _visit(
                q, last, tile, slots, k_at, v_at, k_row, v_row, scale, top, total, sums,
                DIM, WIDE, BLOCK_N, BLOCK_D, BLOCK_W, False, CAUSAL, UPCAST,
            )  # fmt: skip
        for t in range(tl.maximum(begin, unmasked), end):
            tile = tl.load(ids + first + t, mask=first >= 0, other=0)
            tile = tl.where(first >= 0, tile, t)
            top, total, sums = _visit(
                q, last, tile, slots, k_at, v_at, k_row, v_row, scale, top, total, sums,
                DIM, WIDE, BLOCK_N, BLOCK_D, BLOCK_W, True, CAUSAL, UPCAST,
            )  # fmt: skip
        empty = total == 0.0
        total = tl.where(empty, 1.0, total)
        sums = sums / total[:, None]
        natural = tl.where(empty, float("-inf"), (top + tl.log2(total)) * 0.6931471805599453)
        if share >= 0:
            at = share.to(tl.int64) * BLOCK_M + m
            tl.store(part_lse + at, natural)
            tl.store(parts + at[:, None] * WIDE + w[None, :], sums, mask=(w < WIDE)[None, :])
        else:
            tl.store(lse + (batch * rows + place) * all_heads + head, natural, mask=real)
            out = output + batch * o_batch + place[:, None] * o_row + head * o_head + w[None, :]
            tl.store(out, sums, mask=real[:, None] & (w < WIDE)[None, :])


@triton.jit
def _merge(
    parts, part_lse, output, lse, q_slot, heads, shares, o_batch, o_row, o_head, plans, q_tiles, rows, all_heads,
    WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    entry = shares + tl.program_id(0).to(tl.int64) * 3
    item, first, number = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    if item >= 0:
        far = item.to(tl.int64)
        plan = far // q_tiles
        batch = plan // plans
        head = tl.load(heads + plan % plans).to(tl.int64)
        m, w = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_W)
        row = tl.load(q_slot + far * BLOCK_M + m)
        real, place = row >= 0, row.to(tl.int64)
        top = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        sums = tl.zeros([BLOCK_M, BLOCK_W], tl.float32)
        for t in range(number):
            at = (first + t).to(tl.int64) * BLOCK_M + m
            part = tl.load(part_lse + at)
            new = tl.maximum(top, part)
            base = tl.where(new == float("-inf"), 0.0, new)
            weight, decay = tl.exp(part - base), tl.exp(top - base)
            values = tl.load(parts + at[:, None] * WIDE + w[None, :], mask=(w < WIDE)[None, :], other=0.0)
            total = total * decay + weight
            sums = sums * decay[:, None] + weight[:, None] * values
            top = new
        empty = total == 0.0
        total = tl.where(empty, 1.0, total)
        natural = tl.where(empty, float("-inf"), top + tl.log(total))
        tl.store(lse + (batch * rows + place) * all_heads + head, natural, mask=real)
        out = output + batch * o_batch + place[:, None] * o_row + head * o_head + w[None, :]
        tl.store(out, sums / total[:, None], mask=real[:, None] & (w < WIDE)[None, :])


def block_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tiles: Tiles,
    scaling: float,
    chunk: int = _CHUNK,
    shares: int = _SHARES,
    into: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """As `vtokens.kernels.block_sparse_attention`.

    Args:
        query, key, value, tiles, scaling: as there.
        chunk: tiles that one program takes of a list that is shared.
        shares: most shares of lists; longer ones are shared first.
        into: (B, M, H, D_v) and float32 (B, M, H), contiguous, where to write; rows in no slot are left as they are.

    Raises:
        ValueError: tiles or heads of a size the kernel has no version for.
    """
    (batch, heads, rows, dim), (_, kv_heads, _, wide), (block_m, block_n) = query.shape, value.shape, tiles.block
    check(dim, wide, block_m, block_n)
    query, key, value = (part if part.stride(-1) == 1 else part.contiguous() for part in (query, key, value))
    if into is None:
        lse = torch.full((batch, rows, heads), -torch.inf, dtype=torch.float32, device=query.device)
        into = value.new_zeros(batch, rows, heads, wide), lse
    output, lse = into
    if not tiles.count.numel() or not rows or not key.shape[2]:
        return output.transpose(1, 2), lse.transpose(1, 2)
    shares = shares if tiles.k_slot.shape[2] > chunk else 0
    work, merged = _divide(tiles.count.flatten(), chunk, shares)
    parts = torch.empty(max(1, shares), block_m, wide, dtype=torch.float32, device=query.device)
    part_lse = torch.empty(parts.shape[:2], dtype=torch.float32, device=query.device)
    q_slot, k_slot = tiles.q_slot.contiguous(), tiles.k_slot.contiguous()
    # Never without an element, so that there is something to point at.
    ids = torch.nn.functional.pad(tiles.ids, (0, 1))
    start, count, full = (part.contiguous() for part in (tiles.start, tiles.count, tiles.full))
    names = torch.tensor(tiles.heads, dtype=torch.int32, device=query.device)
    plans, q_tiles = q_slot.shape[1:3]
    blocks = {"WIDE": wide, "BLOCK_M": block_m, "BLOCK_W": max(16, triton.next_power_of_2(wide))}
    _attend[(len(work),)](
        query, key, value, output, lse, parts, part_lse, q_slot, k_slot, ids, start, count, full, names, work,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *output.stride()[:3],
        plans, q_tiles, k_slot.shape[2], heads // kv_heads, rows, heads, tiles.offset or 0, chunk,
        scaling * 1.4426950408889634,
        DIM=dim, BLOCK_N=block_n, BLOCK_D=max(16, triton.next_power_of_2(dim)), CAUSAL=tiles.offset is not None,
        UPCAST=interpreted(), **blocks, **settings(query.dtype, dim, block_m),
    )  # fmt: skip
    if len(merged):
        _merge[(len(merged),)](
            parts, part_lse, output, lse, q_slot, names, merged, *output.stride()[:3], plans, q_tiles, rows, heads,
            num_warps=4, **blocks,
        )  # fmt: skip
    return output.transpose(1, 2), lse.transpose(1, 2)


def check(dim: int, wide: int, block_m: int, block_n: int) -> None:
    """Raise `ValueError` for sizes the kernel has no version for."""
    for name, block in (("BLOCK_M", block_m), ("BLOCK_N", block_n)):
        if block not in (16, 32, 64, 128):
            raise ValueError(f"{name}={block}: the kernel has tiles of 16, 32, 64 and 128; plain PyTorch takes any")
    if max(dim, wide) > 256:
        raise ValueError(f"heads of {max(dim, wide)} channels: the kernel has up to 256; plain PyTorch takes any")


def settings(dtype: torch.dtype, dim: int, block_m: int) -> dict[str, int]:
    """Warps and stages for a tile."""
    if dtype == torch.float32:
        return {"num_warps": 8, "num_stages": 1}
    return {"num_warps": 8 if block_m == 128 else 4, "num_stages": 3 if dim <= 128 else 2}


def _divide(count: Tensor, chunk: int, shares: int) -> tuple[Tensor, Tensor]:
    """Work for the programs, long lists first, without asking the device how much there is.

    Args:
        count: int32 (I,), tiles of each list.
        chunk: tiles of a share.
        shares: most shares; lists that get none are one program's.

    Returns:
        int32 (I + shares, 3): for each program its list (below 0: none), the entry it begins with, and the number of
            its share, below 0 if it takes the list alone.
        int32 (shares / 2, 3): lists that are shared (below 0: none), their first share and how many they have.
    """
    order = count.argsort(descending=True, stable=True)
    wanted = (count[order].long() + chunk - 1) // chunk
    many = torch.where(wanted > 1, wanted, 0)
    until = many.cumsum(0)
    shared = (many > 0) & (until <= shares)
    programs = torch.where(shared, wanted, 1)
    ends = programs.cumsum(0)
    program = torch.arange(len(count) + shares, device=count.device)
    which = torch.searchsorted(ends, program, right=True)
    idle, which = which >= len(count), which.clamp(max=len(count) - 1)
    nth = program - (ends - programs)[which]
    number = torch.where(shared, until - many, -1)[which]
    work = torch.stack([order[which].masked_fill(idle, -1), nth * chunk, torch.where(number < 0, -1, number + nth)], 1)
    most = min(shares // 2, len(count))
    merged = torch.stack([order.masked_fill(~shared, -1), until - many, many], 1)[:most]
    return work.to(torch.int32), merged.to(torch.int32)
