"""Attention of a few rows summed by key and by distance: a program takes a block of 64 keys and all rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vtokens.kernels._dispatch import interpreted
from vtokens.kernels._triton import rows as colsum

_LOG2E = 1.4426950408889634


@triton.jit
def _sums(
    query, key, group, position, lse, column, parts,
    q_batch, q_head, q_row, k_batch, k_head, k_row, g_batch, g_row, p_batch, p_row,
    kv_heads, shared, rows, keys, blocks, scale,
    DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, GROUPS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    batch = (tl.program_id(1) // kv_heads).to(tl.int64)
    kv_head = (tl.program_id(1) % kv_heads).to(tl.int64)
    step, d = tl.arange(0, 64), tl.arange(0, BLOCK_D)
    n = block.to(tl.int64) * 64 + step
    inside = n < keys
    k_at = key + batch * k_batch + kv_head * k_head + n[None, :] * k_row + d[:, None]
    k = tl.load(k_at, mask=inside[None, :] & (d < DIM)[:, None], other=0.0)
    if UPCAST:
        k = k.to(tl.float32)
    ids = tl.load(group + batch * g_batch + n * g_row, mask=inside, other=-1).to(tl.int32)
    there = inside & (ids >= 0) & (ids < GROUPS)
    for nth in range(shared):
        head = kv_head * shared + nth
        sums = tl.zeros([64], tl.float32)
        for first in range(0, rows, BLOCK_M):
            m = first + tl.arange(0, BLOCK_M)
            real, row = m < rows, m.to(tl.int64)
            q_at = query + batch * q_batch + head * q_head + row[:, None] * q_row + d[None, :]
            q = tl.load(q_at, mask=real[:, None] & (d < DIM)[None, :], other=0.0)
            if UPCAST:
                q = q.to(tl.float32)
            place = tl.load(position + batch * p_batch + row * p_row, mask=real, other=-1)
            at = (batch * (kv_heads * shared) + head) * rows + row
            whole = tl.load(lse + at, mask=real, other=0.0)
            whole = tl.where(whole == float("-inf"), 0.0, whole)
            seen = there[None, :] & (n[None, :] <= place[:, None])
            scores = tl.where(seen, tl.dot(q, k, input_precision="ieee") * scale - whole[:, None], float("-inf"))
            share = tl.exp2(scores)
            sums += tl.sum(share, 0)
            # Places below 0 see nothing, so their remainder does not matter.
            nearer = step[None, :] <= (place % 64)[:, None]
            for g in tl.static_range(GROUPS):
                mine = tl.where((ids == g)[None, :], share, 0.0)
                out = parts + ((at * blocks + block) * GROUPS + g) * 2
                tl.store(out, tl.sum(tl.where(nearer, mine, 0.0), 1), mask=real)
                tl.store(out + 1, tl.sum(tl.where(nearer, 0.0, mine), 1), mask=real)
        tl.store(column + (batch * (kv_heads * shared) + head) * keys + n, sums, mask=inside)


def attention_sums(
    query: Tensor,
    key: Tensor,
    scaling: float,
    position: Tensor,
    group: Tensor,
    groups: int,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As `vtokens.kernels.attention_sums`, whose bands are still to be added up: (B, H, N) and (B, H, R, blocks, G, 2).

    `splits` is over how many programs the pass that finds log-sum-exps divides the keys; chosen if not given.
    """
    (batch, heads, rows, dim), (_, kv_heads, keys, _) = query.shape, key.shape
    query, key = (part if part.stride(-1) == 1 else part.contiguous() for part in (query, key))
    shared, blocks, device = heads // kv_heads, triton.cdiv(keys, 64), query.device
    options = colsum.settings(query.dtype, dim, shared * rows)
    across = triton.cdiv(shared * rows, options["BLOCK_M"])
    if splits is None:
        splits = colsum.split_count(across * batch * kv_heads, triton.cdiv(keys, options["BLOCK_N"]), device)
    length = triton.cdiv(triton.cdiv(keys, splits), options["BLOCK_N"]) * options["BLOCK_N"]
    lse = torch.empty(splits, batch, heads, rows, device=device)
    column = torch.empty(batch, heads, keys, device=device)
    parts = torch.empty(batch, heads, rows, blocks, groups, 2, device=device)
    # The pass over log-sum-exps knows a bias for each key, and no groups.
    bias = torch.where((group >= 0) & (group < groups), 0.0, -torch.inf)
    blocked = {"DIM": dim, "BLOCK_D": max(16, triton.next_power_of_2(dim)), "UPCAST": interpreted()}
    strides, scale = (*query.stride()[:3], *key.stride()[:3]), scaling * _LOG2E
    colsum._normalise[(across, batch * kv_heads, splits)](
        query, key, bias, position, lse, *strides, *position.stride(),
        batch, kv_heads, shared, rows, keys, length, scale, BIASED=True, CAUSAL=True, **blocked, **options,
    )  # fmt: skip
    # To the base of 2 like its parts.
    whole = lse[0] if splits == 1 else torch.logsumexp(lse / _LOG2E, 0) * _LOG2E
    options = colsum.settings(query.dtype, dim, rows)
    del options["BLOCK_N"]
    _sums[(blocks, batch * kv_heads)](
        query, key, group, position, whole, column, parts, *strides, *group.stride(), *position.stride(),
        kv_heads, shared, rows, keys, blocks, scale, GROUPS=groups, **blocked, **options,
    )  # fmt: skip
    return column, parts
