"""A few rows over all copies of unique keys: each key is looked up and turned on its way to the product."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vtokens.kernels._triton.attend import merge
from vtokens.kernels._triton.rows import split_count


@triton.jit
def _rows(
    query, key, value, member, angle, valid, output, lse,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, m_batch, a_batch, a_row,
    batches, heads, shared, rows, unique, length, chunk, scale,
    HALF: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(2)
    kv_heads = heads // shared
    batch = (tl.program_id(1) // kv_heads).to(tl.int64)
    kv_head = (tl.program_id(1) % kv_heads).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    real = m < shared * rows
    head, row = kv_head * shared + m // rows, (m % rows).to(tl.int64)
    h, w = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_W)
    q_at = query + batch * q_batch + head[:, None] * q_head + row[:, None] * q_row + h[None, :]
    there = real[:, None] & (h < HALF)[None, :]
    q_low = tl.load(q_at, mask=there, other=0.0).to(tl.float32)
    q_high = tl.load(q_at + HALF, mask=there, other=0.0).to(tl.float32)
    begin, end = split * chunk, tl.minimum(split * chunk + chunk, length)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, BLOCK_W], tl.float32)
    for start in range(begin, end, BLOCK_N):
        n = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        inside = n < end
        source = tl.load(member + batch * m_batch + n, mask=inside, other=-1).to(tl.int64)
        inside = (source >= 0) & (source < unique)
        if PADDED:
            inside = inside & (tl.load(valid + batch * length + n, mask=inside, other=0) != 0)
        known = inside[None, :] & (h < HALF)[:, None]
        k_at = key + batch * k_batch + kv_head * k_head + source[None, :] * k_row + h[:, None]
        low = tl.load(k_at, mask=known, other=0.0).to(tl.float32)
        high = tl.load(k_at + HALF, mask=known, other=0.0).to(tl.float32)
        a_at = angle + batch * a_batch + n[None, :] * a_row + 2 * h[:, None]
        cos, sin = tl.load(a_at, mask=known, other=0.0), tl.load(a_at + 1, mask=known, other=0.0)
        scores = tl.dot(q_low, low * cos - high * sin, input_precision="ieee")
        scores = (scores + tl.dot(q_high, high * cos + low * sin, input_precision="ieee")) * scale
        scores = tl.where(inside[None, :] & real[:, None], scores, float("-inf"))
        v_at = value + batch * v_batch + kv_head * v_head + source[:, None] * v_row + w[None, :]
        v = tl.load(v_at, mask=inside[:, None] & (w < WIDE)[None, :], other=0.0).to(tl.float32)
        new = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(new == float("-inf"), 0.0, new)
        shares, decay = tl.exp2(scores - base[:, None]), tl.exp2(top - base)
        total = total * decay + tl.sum(shares, 1)
        sums = sums * decay[:, None] + tl.dot(shares, v, input_precision="ieee")
        top = new
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    place = ((split.to(tl.int64) * batches + batch) * heads + head) * rows + row
    natural = (top + tl.log2(total)) * 0.6931471805599453
    tl.store(lse + place, tl.where(empty, float("-inf"), natural), mask=real)
    tl.store(
        output + place[:, None] * WIDE + w[None, :], sums / total[:, None], mask=real[:, None] & (w < WIDE)[None, :]
    )


def unmerge_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    member: Tensor,
    angle: Tensor,
    scaling: float,
    valid: Tensor | None,
    splits: int | None = None,
) -> Tensor:
    """As `vtokens.kernels.unmerge_rows`; over how many programs positions are split is chosen if not given."""
    (batch, heads, rows, dim), (_, kv_heads, _, wide) = query.shape, value.shape
    length, shared, block = member.shape[1], heads // kv_heads, 32
    query, key, value, member = (
        part if part.stride(-1) == 1 else part.contiguous() for part in (query, key, value, member)
    )
    turn = torch.view_as_real(angle.contiguous().expand(batch, -1, -1))
    across, programs = triton.cdiv(shared * rows, 16), batch * kv_heads
    if splits is None:
        splits = split_count(across * programs, triton.cdiv(length, block), query.device)
    chunk = triton.cdiv(triton.cdiv(length, splits), block) * block
    parts = torch.empty(splits, batch, heads, rows, wide, dtype=torch.float32, device=query.device)
    lse = torch.empty(parts.shape[:-1], dtype=torch.float32, device=query.device)
    if parts.numel():
        _rows[(across, programs, splits)](
            query, key, value, member, turn, member if valid is None else valid.contiguous(), parts, lse,
            *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], member.stride(0), *turn.stride()[:2],
            batch, heads, shared, rows, key.shape[2], length, chunk, scaling * 1.4426950408889634,
            HALF=dim // 2, WIDE=wide, BLOCK_M=16, BLOCK_N=block, BLOCK_H=max(16, triton.next_power_of_2(dim // 2)),
            BLOCK_W=max(16, triton.next_power_of_2(wide)), PADDED=valid is not None,
            num_warps=8, num_stages=2,
        )  # fmt: skip
    return merge(parts, lse)[0].to(value.dtype)
