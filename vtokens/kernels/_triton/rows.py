"""The attention that keys receive, without a matrix in memory.

A softmax is known only when its row has seen every key, so there are two passes over the scores: the first finds the
log-sum-exp of each row, the second sums a tile of keys over all rows. Nothing is added atomically: runs repeat to the
bit. `attention_rows` has no version here, as what it returns is the matrix itself.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vtokens.kernels._dispatch import interpreted

_LOG2E = 1.4426950408889634


@triton.jit
def _normalise(
    query, key, bias, position, lse,
    q_batch, q_head, q_row, k_batch, k_head, k_row, p_batch, p_row,
    batches, kv_heads, shared, rows, keys, length, scale,
    DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BIASED: tl.constexpr, CAUSAL: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(2)
    batch = (tl.program_id(1) // kv_heads).to(tl.int64)
    kv_head = (tl.program_id(1) % kv_heads).to(tl.int64)
    m, d = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    real = m < shared * rows
    head, row = kv_head * shared + m // rows, (m % rows).to(tl.int64)
    q_at = query + batch * q_batch + head[:, None] * q_head + row[:, None] * q_row + d[None, :]
    q = tl.load(q_at, mask=real[:, None] & (d < DIM)[None, :], other=0.0)
    if UPCAST:
        q = q.to(tl.float32)
    begin, end = split * length, tl.minimum(split * length + length, keys)
    last = m * 0
    if CAUSAL:
        last = tl.load(position + batch * p_batch + row * p_row, mask=real, other=-1).to(tl.int32)
        end = tl.minimum(end, tl.max(last, 0) + 1)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for start in range(begin, end, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        inside = n < end
        k_at = key + batch * k_batch + kv_head * k_head + n.to(tl.int64)[None, :] * k_row + d[:, None]
        k = tl.load(k_at, mask=inside[None, :] & (d < DIM)[:, None], other=0.0)
        if UPCAST:
            k = k.to(tl.float32)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        seen = inside[None, :] & real[:, None]
        if BIASED:
            extra = tl.load(bias + batch * keys + n, mask=inside, other=float("-inf")) * 1.4426950408889634
            scores += extra[None, :]
            seen = seen & (extra != float("-inf"))[None, :]
        if CAUSAL:
            seen = seen & (n[None, :] <= last[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        new = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp2(top - base) + tl.sum(tl.exp2(scores - base[:, None]), 1)
        top = new
    place = ((split.to(tl.int64) * batches + batch) * (kv_heads * shared) + head) * rows + row
    empty = total == 0.0
    tl.store(lse + place, tl.where(empty, float("-inf"), top + tl.log2(tl.where(empty, 1.0, total))), mask=real)


@triton.jit
def _receive(
    query, key, bias, position, weight, lse, received,
    q_batch, q_head, q_row, k_batch, k_head, k_row, p_batch, p_row,
    batches, kv_heads, shared, joint, rows, keys, splits, scale,
    DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BIASED: tl.constexpr, CAUSAL: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    batch = (tl.program_id(1) // kv_heads).to(tl.int64)
    kv_head = (tl.program_id(1) % kv_heads).to(tl.int64)
    n, d = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    inside = n < keys
    k_at = key + batch * k_batch + kv_head * k_head + n.to(tl.int64)[None, :] * k_row + d[:, None]
    k = tl.load(k_at, mask=inside[None, :] & (d < DIM)[:, None], other=0.0)
    if UPCAST:
        k = k.to(tl.float32)
    extra = tl.zeros([BLOCK_N], tl.float32)
    if BIASED:
        extra = tl.load(bias + batch * keys + n, mask=inside, other=0.0) * 1.4426950408889634
    # The keys stay where they are while the rows of their query heads pass by, `joint` heads to a sum.
    for nth in range(0, shared, joint):
        sums = tl.zeros([BLOCK_N], tl.float32)
        for first in range(0, joint * rows, BLOCK_M):
            m = first + tl.arange(0, BLOCK_M)
            real = m < joint * rows
            head, row = kv_head * shared + nth + m // rows, (m % rows).to(tl.int64)
            top = tl.full([BLOCK_M], float("-inf"), tl.float32)
            total = tl.zeros([BLOCK_M], tl.float32)
            for split in range(splits):
                place = ((split * tl.cast(batches, tl.int64) + batch) * (kv_heads * shared) + head) * rows + row
                part = tl.load(lse + place, mask=real, other=float("-inf"))
                new = tl.maximum(top, part)
                base = tl.where(new == float("-inf"), 0.0, new)
                total = total * tl.exp2(top - base) + tl.exp2(part - base)
                top = new
            empty = total == 0.0
            whole = tl.where(empty, float("inf"), top + tl.log2(tl.where(empty, 1.0, total)))
            q_at = query + batch * q_batch + head[:, None] * q_head + row[:, None] * q_row + d[None, :]
            q = tl.load(q_at, mask=real[:, None] & (d < DIM)[None, :], other=0.0)
            if UPCAST:
                q = q.to(tl.float32)
            scores = tl.dot(q, k, input_precision="ieee") * scale + extra[None, :]
            seen = inside[None, :] & real[:, None] & (extra != float("-inf"))[None, :]
            if CAUSAL:
                last = tl.load(position + batch * p_batch + row * p_row, mask=real, other=-1).to(tl.int32)
                seen = seen & (n[None, :] <= last[:, None])
            shares = tl.exp2(tl.where(seen, scores, float("-inf")) - whole[:, None])
            sums += tl.sum(shares * tl.load(weight + batch * rows + row, mask=real, other=0.0)[:, None], 0)
        out = received + ((batch * kv_heads + kv_head) * (shared // joint) + nth // joint) * keys
        tl.store(out + n, sums, mask=inside)


def attention_colsum(
    query: Tensor,
    key: Tensor,
    scaling: float,
    weight: Tensor,
    position: Tensor | None,
    bias: Tensor | None,
    lse: Tensor | None = None,
    joint: bool = False,
    block: tuple[int, int] | None = None,
    splits: int | None = None,
) -> Tensor:
    """What each key receives, summed over weighted rows.

    Args:
        query, key, scaling, position, bias, lse: as for `vtokens.kernels.attention_colsum`.
        weight: float32 (B, R).
        joint: add up the query heads that share keys.
        block: rows and keys of a tile; chosen if not given.
        splits: over how many programs the first pass divides the keys; chosen if not given.

    Returns:
        float32 (B, H, N), with H_kv for H if `joint`.
    """
    (batch, heads, rows, dim), (_, kv_heads, keys, _) = query.shape, key.shape
    query, key = (part if part.stride(-1) == 1 else part.contiguous() for part in (query, key))
    shared, device, weight = heads // kv_heads, query.device, weight.contiguous()
    together = shared if joint else 1
    received = torch.empty(batch, heads // together, keys, device=device)
    if not rows or not received.numel():
        return received.zero_()
    bias = None if bias is None else bias.contiguous()
    place = (0, 0) if position is None else position.stride()
    strides = *query.stride()[:3], *key.stride()[:3], *place
    fixed = {"DIM": dim, "BLOCK_D": max(16, triton.next_power_of_2(dim)), "UPCAST": interpreted()}
    fixed |= {"BIASED": bias is not None, "CAUSAL": position is not None}
    pointers = weight if bias is None else bias, weight if position is None else position
    scale = scaling * _LOG2E
    if lse is None:
        options = _tile(settings(query.dtype, dim, shared * rows), block)
        across = triton.cdiv(shared * rows, options["BLOCK_M"])
        if splits is None:
            splits = split_count(across * batch * kv_heads, triton.cdiv(keys, options["BLOCK_N"]), device)
        length = triton.cdiv(triton.cdiv(keys, splits), options["BLOCK_N"]) * options["BLOCK_N"]
        lse = torch.empty(splits, batch, heads, rows, device=device)
        _normalise[(across, batch * kv_heads, splits)](
            query, key, *pointers, lse, *strides, batch, kv_heads, shared, rows, keys, length, scale, **fixed, **options
        )
    else:
        lse, splits = (lse * _LOG2E).contiguous(), 1
    options = _tile(settings(query.dtype, dim, together * rows), block)
    _receive[(triton.cdiv(keys, options["BLOCK_N"]), batch * kv_heads)](
        query, key, *pointers, weight, lse, received, *strides,
        batch, kv_heads, shared, together, rows, keys, splits, scale, **fixed, **options,
    )  # fmt: skip
    return received


def _tile(options: dict[str, int], block: tuple[int, int] | None) -> dict[str, int]:
    return options if block is None else options | dict(zip(("BLOCK_M", "BLOCK_N"), block, strict=True))


def settings(dtype: torch.dtype, dim: int, rows: int) -> dict[str, int]:
    """Tile and launch settings for `rows` rows of query heads that share their keys."""
    most = 16 if dtype == torch.float32 else 64
    return {"BLOCK_M": min(most, max(16, triton.next_power_of_2(rows))), "BLOCK_N": 64, "num_warps": 4, "num_stages": 2}


def split_count(programs: int, tiles: int, device: torch.device) -> int:
    """How many programs share the keys of one tile of rows, so that a GPU has two for each of its processors."""
    if device.type != "cuda":
        return 1
    wanted = 2 * torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(tiles, wanted // programs))
