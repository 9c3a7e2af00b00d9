"""Attention of some rows in one pass over keys and values: over groups of keys, listed keys, caches of any length.

Each pair of a row and a group is a row of its own, masked to the keys of its group, so every group has its own running
maximum and there is no index to build. Where a tile's rows belong to one group or two, key tiles without a member are
skipped by looking at their ids alone, so that with groups in runs, as pictures are, each key is visited about once. Few
rows (decoding) share each tile of keys instead, and the keys are split over programs whose results a second kernel
merges.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vtokens.kernels._dispatch import interpreted
from vtokens.kernels._triton.rows import split_count


@triton.jit
def _attend(
    query, key, value, group, index, length, position, output, lse,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, g_batch, g_row, i_batch, i_list,
    l_batch, l_head, p_batch, p_row, batches, heads, shared, joint, listed, rows, keys, slots, groups, chunk, scale,
    DIM: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_W: tl.constexpr, GROUPED: tl.constexpr, LISTED: tl.constexpr, LENGTHS: tl.constexpr,
    CAUSAL: tl.constexpr, SKIP: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(2)
    # A program takes the rows of `joint` query heads, which share their keys.
    batch = (tl.program_id(1) // (heads // joint)).to(tl.int64)
    lead = (tl.program_id(1) % (heads // joint)).to(tl.int64) * joint
    kv_head = lead // shared
    first = tl.program_id(0) * BLOCK_M
    each = joint * rows
    m = first + tl.arange(0, BLOCK_M)
    real = m < groups * each
    own, head, row = m // each, lead + (m // rows) % joint, m % rows
    d, w = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_W)
    q_at = query + batch * q_batch + head[:, None] * q_head + row[:, None] * tl.cast(q_row, tl.int64) + d[None, :]
    q = tl.load(q_at, mask=real[:, None] & (d < DIM)[None, :], other=0.0)
    if UPCAST:
        q = q.to(tl.float32)
    last = m * 0
    if LENGTHS:
        slots = tl.minimum(tl.load(length + batch * l_batch + kv_head * l_head), keys).to(tl.int32)
        splits = tl.num_programs(2)
        chunk = ((slots + splits - 1) // splits + BLOCK_N - 1) // BLOCK_N * BLOCK_N
    begin, end = split * chunk, tl.minimum(split * chunk + chunk, slots)
    if CAUSAL:
        if LENGTHS:
            last = slots - rows + row
        else:
            last = tl.load(position + batch * p_batch + row * p_row, mask=real, other=-1).to(tl.int32)
        if not LISTED:
            end = tl.minimum(end, tl.max(last, 0) + 1)
    lowest, highest = first // each, tl.minimum(first + BLOCK_M - 1, groups * each - 1) // each
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, BLOCK_W], tl.float32)
    for start in range(begin, end, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        inside, far = n < end, n.to(tl.int64)
        if LISTED:
            far = tl.load(index + batch * i_batch + (lead // listed) * i_list + far, mask=inside, other=-1).to(tl.int64)
            inside = (far >= 0) & (far < keys)
        visit = True
        if SKIP:
            visit = tl.max(inside.to(tl.int32), 0) > 0
        ids = n * 0
        if GROUPED:
            ids = tl.load(group + batch * g_batch + far * g_row, mask=inside, other=-1).to(tl.int32)
            if SKIP:
                visit = tl.max(((ids >= lowest) & (ids <= highest)).to(tl.int32), 0) > 0
        if visit:
            k_at = key + batch * k_batch + kv_head * k_head + far[None, :] * k_row + d[:, None]
            k = tl.load(k_at, mask=inside[None, :] & (d < DIM)[:, None], other=0.0)
            v_at = value + batch * v_batch + kv_head * v_head + far[:, None] * v_row + w[None, :]
            v = tl.load(v_at, mask=inside[:, None] & (w < WIDE)[None, :], other=0.0)
            if UPCAST:
                k, v = k.to(tl.float32), v.to(tl.float32)
            scores = tl.dot(q, k, input_precision="ieee") * scale
            seen = inside[None, :] & real[:, None]
            if GROUPED:
                seen = seen & (ids[None, :] == own[:, None])
            if CAUSAL:
                seen = seen & (far[None, :] <= last[:, None])
            scores = tl.where(seen, scores, float("-inf"))
            new = tl.maximum(top, tl.max(scores, 1))
            base = tl.where(new == float("-inf"), 0.0, new)
            shares = tl.exp2(scores - base[:, None])
            decay = tl.exp2(top - base)
            total = total * decay + tl.sum(shares, 1)
            sums = sums * decay[:, None] + tl.dot(shares.to(v.dtype), v, input_precision="ieee")
            top = new
    empty = total == 0.0
    sums = sums / tl.where(empty, 1.0, total)[:, None]
    natural = (top + tl.log2(tl.where(empty, 1.0, total))) * 0.6931471805599453
    place = (split.to(tl.int64) * groups + own) * batches + batch
    place = (place * heads + head) * rows + row
    tl.store(lse + place, tl.where(empty, float("-inf"), natural), mask=real)
    tl.store(output + place[:, None] * WIDE + w[None, :], sums, mask=real[:, None] & (w < WIDE)[None, :])


@triton.jit
def _merge(
    parts, part_lse, output, lse, rows, splits, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    w = tl.arange(0, BLOCK_W)
    real, columns = row < rows, (w < WIDE)[None, :]
    top = tl.full([BLOCK_R], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    sums = tl.zeros([BLOCK_R, BLOCK_W], tl.float32)
    for split in range(splits):
        place = split * tl.cast(rows, tl.int64) + row
        part = tl.load(part_lse + place, mask=real, other=float("-inf"))
        new = tl.maximum(top, part)
        base = tl.where(new == float("-inf"), 0.0, new)
        share, decay = tl.exp(part - base), tl.exp(top - base)
        values = tl.load(parts + place[:, None] * WIDE + w[None, :], mask=real[:, None] & columns, other=0.0)
        total = total * decay + share
        sums = sums * decay[:, None] + share[:, None] * values
        top = new
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    tl.store(lse + row, tl.where(empty, float("-inf"), top + tl.log(total)), mask=real)
    tl.store(output + row[:, None] * WIDE + w[None, :], sums / total[:, None], mask=real[:, None] & columns)


def attend(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, *, group: Tensor | None = None, groups: int = 1,
    index: Tensor | None = None, length: Tensor | None = None, position: Tensor | None = None, causal: bool = False,
    tile: tuple[int, int] | None = None, splits: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention of rows (B, H, R, D) over keys (B, H_kv, N, D) and values (B, H_kv, N, D_v), in parts of the keys.

    Args:
        query, key, value: any strides.
        scaling: the factor on the products.
        group, groups: int (B, N), the group of each key in [0, groups); ids outside are masked out. None: one group.
        index: int (B, P, S), the only keys to look at, P being 1, H_kv or H lists; below 0 is none. None: all keys.
        length: int (B, H_kv), how many keys there are; None: all.
        position: int (B, R), the last key a row sees; None: all. Not beside `length`.
        causal: with `length`, the rows are the last of its keys.
        tile: rows and keys of a tile; chosen if not given.
        splits: over how many programs the keys are divided; chosen if not given.

    Returns:
        Outputs float32 (splits, groups, B, H, R, D_v) and natural log-sum-exps float32 (splits, groups, B, H, R).

    Raises:
        ValueError: heads of more than 256 channels.
    """
    (batch, heads, rows, dim), (_, kv_heads, keys, wide) = query.shape, value.shape
    if max(dim, wide) > 256:
        raise ValueError(f"heads of {max(dim, wide)} channels: the kernel has up to 256; plain PyTorch takes any")
    query, key, value = (part if part.stride(-1) == 1 else part.contiguous() for part in (query, key, value))
    shared, slots = heads // kv_heads, keys
    joint, lists = shared, 1
    if index is not None:
        lists, slots = index.shape[1:]
        joint = shared if lists <= kv_heads else 1
        index = index if index.stride(-1) == 1 else index.contiguous()
    chosen = settings(query.dtype, max(dim, wide), groups * joint * rows)
    if tile is not None:
        chosen["BLOCK_M"], chosen["BLOCK_N"] = tile
    across, programs = triton.cdiv(groups * joint * rows, chosen["BLOCK_M"]), batch * heads // joint
    if splits is None:
        splits = split_count(across * programs, triton.cdiv(slots, chosen["BLOCK_N"]), query.device)
    chunk = triton.cdiv(triton.cdiv(slots, splits), chosen["BLOCK_N"]) * chosen["BLOCK_N"]
    parts = torch.empty(splits, groups, batch, heads, rows, wide, dtype=torch.float32, device=query.device)
    lse = torch.empty(parts.shape[:-1], dtype=torch.float32, device=query.device)
    if not lse.numel():
        return parts, lse
    pairs = group, length, position
    g, n, p = ((0, 0) if part is None else part.stride() for part in pairs)
    i = (0, 0) if index is None else index.stride()[:2]
    # Something must be pointed at, though nobody looks.
    given = [lse if part is None else part for part in (group, index, length, position)]
    _attend[(across, programs, splits)](
        query, key, value, *given, parts, lse,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *g, *i, *n, *p,
        batch, heads, shared, joint, heads // lists, rows, keys, slots, groups, chunk, scaling * 1.4426950408889634,
        DIM=dim, WIDE=wide, BLOCK_D=max(16, triton.next_power_of_2(dim)), BLOCK_W=max(16, triton.next_power_of_2(wide)),
        GROUPED=group is not None, LISTED=index is not None, LENGTHS=length is not None,
        CAUSAL=causal or position is not None,
        SKIP=index is not None or (group is not None and joint * rows >= chosen["BLOCK_M"]),
        UPCAST=interpreted(), **chosen,
    )  # fmt: skip
    return parts, lse


def merge(parts: Tensor, part_lse: Tensor) -> tuple[Tensor, Tensor]:
    """The results of all parts of the keys, as one."""
    if len(parts) == 1 or parts.numel() == 0:
        return parts[0], part_lse[0]
    output, lse = torch.empty_like(parts[0]), torch.empty_like(part_lse[0])
    wide = parts.shape[-1]
    _merge[(triton.cdiv(lse.numel(), 16),)](
        parts, part_lse, output, lse, lse.numel(), len(parts),
        WIDE=wide, BLOCK_R=16, BLOCK_W=max(16, triton.next_power_of_2(wide)), num_warps=4,
    )  # fmt: skip
    return output, lse


def settings(dtype: torch.dtype, dim: int, rows: int) -> dict[str, int]:
    """Tile and launch settings for `rows` pairs of a row and a group.

    Up to 128 channels none of them spills registers. float32, which tensor cores do not multiply exactly, has room for
    16 rows only.
    """
    most = 16 if dtype == torch.float32 else 64
    block_m = min(most, max(16, triton.next_power_of_2(rows)))
    warps = 8 if dim > 128 and block_m == 64 else 4
    return {"BLOCK_M": block_m, "BLOCK_N": 64, "num_warps": warps, "num_stages": 2 if dtype == torch.float32 else 3}
