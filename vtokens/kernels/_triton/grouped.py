"""Grouped attention in one pass over keys and values: each pair of a row and a group is a row of its own.

A tile of such rows is masked to its groups, so every group has its own running maximum and there is no index to build.
Where a tile's rows belong to one group or two, key tiles without a member are skipped by looking at their ids alone, so
that with groups in runs, as pictures are, each key is visited about once. Few rows (decoding) share each tile of keys
instead, and the keys are split over programs whose results a second kernel merges.
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
    query, key, value, group, position, output, lse,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, g_batch, g_row, p_batch, p_row,
    batches, kv_heads, shared, rows, keys, groups, length, scale,
    DIM: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_W: tl.constexpr, CAUSAL: tl.constexpr, SKIP: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(2)
    batch = (tl.program_id(1) // kv_heads).to(tl.int64)
    kv_head = (tl.program_id(1) % kv_heads).to(tl.int64)
    first = tl.program_id(0) * BLOCK_M
    each = shared * rows
    m = first + tl.arange(0, BLOCK_M)
    real = m < groups * each
    own, head, row = m // each, kv_head * shared + (m // rows) % shared, m % rows
    d, w = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_W)
    q_at = query + batch * q_batch + head[:, None] * q_head + row[:, None] * tl.cast(q_row, tl.int64) + d[None, :]
    q = tl.load(q_at, mask=real[:, None] & (d < DIM)[None, :], other=0.0)
    if UPCAST:
        q = q.to(tl.float32)
    begin, end = split * length, tl.minimum(split * length + length, keys)
    last = m * 0
    if CAUSAL:
        last = tl.load(position + batch * p_batch + row * p_row, mask=real, other=-1).to(tl.int32)
        end = tl.minimum(end, tl.max(last, 0) + 1)
    lowest, highest = first // each, tl.minimum(first + BLOCK_M - 1, groups * each - 1) // each
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, BLOCK_W], tl.float32)
    for start in range(begin, end, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        inside, far = n < end, n.to(tl.int64)
        ids = tl.load(group + batch * g_batch + far * g_row, mask=inside, other=-1).to(tl.int32)
        visit = True
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
            seen = (ids[None, :] == own[:, None]) & inside[None, :]
            if CAUSAL:
                seen = seen & (n[None, :] <= last[:, None])
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
    place = (place * (kv_heads * shared) + head) * rows + row
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


def grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: Tensor,
    groups: int,
    scaling: float,
    position: Tensor | None,
    tile: tuple[int, int] | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As `vtokens.kernels.grouped_attention`; `tile` (rows, keys) and `splits` of the keys are chosen if not given."""
    parts, part_lse = attend_groups(query, key, value, group, groups, scaling, position, tile, splits)
    if len(parts) == 1 or parts.numel() == 0:
        return parts[0], part_lse[0]
    output, lse = torch.empty_like(parts[0]), torch.empty_like(part_lse[0])
    wide = parts.shape[-1]
    _merge[(triton.cdiv(lse.numel(), 16),)](
        parts, part_lse, output, lse, lse.numel(), len(parts),
        WIDE=wide, BLOCK_R=16, BLOCK_W=max(16, triton.next_power_of_2(wide)), num_warps=4,
    )  # fmt: skip
    return output, lse


def attend_groups(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: Tensor,
    groups: int,
    scaling: float,
    position: Tensor | None,
    tile: tuple[int, int] | None,
    splits: int | None,
) -> tuple[Tensor, Tensor]:
    """Outputs (splits, G, B, H, R, D_v) and log-sum-exps (splits, G, B, H, R) over as many parts of the keys."""
    (batch, heads, rows, dim), (_, kv_heads, keys, wide) = query.shape, value.shape
    query, key, value = (part if part.stride(-1) == 1 else part.contiguous() for part in (query, key, value))
    shared = heads // kv_heads
    chosen = settings(query.dtype, max(dim, wide), groups * shared * rows)
    if tile is not None:
        chosen["BLOCK_M"], chosen["BLOCK_N"] = tile
    across = triton.cdiv(groups * shared * rows, chosen["BLOCK_M"])
    if splits is None:
        splits = split_count(across * batch * kv_heads, triton.cdiv(keys, chosen["BLOCK_N"]), query.device)
    length = triton.cdiv(triton.cdiv(keys, splits), chosen["BLOCK_N"]) * chosen["BLOCK_N"]
    parts = torch.empty(splits, groups, batch, heads, rows, wide, dtype=torch.float32, device=query.device)
    lse = torch.empty(parts.shape[:-1], dtype=torch.float32, device=query.device)
    if parts.numel() == 0:
        return parts, lse
    place = group.stride() if position is None else position.stride()
    _attend[(across, batch * kv_heads, splits)](
        query, key, value, group, group if position is None else position, parts, lse,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *group.stride(), *place,
        batch, kv_heads, shared, rows, keys, groups, length, scaling * 1.4426950408889634,
        DIM=dim, WIDE=wide, BLOCK_D=max(16, triton.next_power_of_2(dim)), BLOCK_W=max(16, triton.next_power_of_2(wide)),
        CAUSAL=position is not None, SKIP=shared * rows >= chosen["BLOCK_M"], UPCAST=interpreted(), **chosen,
    )  # fmt: skip
    return parts, lse


def settings(dtype: torch.dtype, dim: int, rows: int) -> dict[str, int]:
    """Tile and launch settings for `rows` pairs of a row and a group.

    Up to 128 channels none of them spills registers. float32, which tensor cores do not multiply exactly, has room for
    16 rows only.
    """
    most = 16 if dtype == torch.float32 else 64
    block_m = min(most, max(16, triton.next_power_of_2(rows)))
    warps = 8 if dim > 128 and block_m == 64 else 4
    return {"BLOCK_M": block_m, "BLOCK_N": 64, "num_warps": warps, "num_stages": 2 if dtype == torch.float32 else 3}
