"""Grouped attention whose four groups are merged under `Recycling`: two launches, the rule included."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vtokens.kernels._triton.attend import attend
from vtokens.kernels.recycling import Recycling


@triton.jit
def _whole(part_lse, at, step, splits, real):
    top = tl.full(at.shape, float("-inf"), tl.float32)
    total = tl.zeros(at.shape, tl.float32)
    for split in range(splits):
        part = tl.load(part_lse + split * step + at, mask=real, other=float("-inf"))
        new = tl.maximum(top, part)
        base = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(top - base) + tl.exp(part - base)
        top = new
    return tl.where(total == 0.0, float("-inf"), top + tl.log(tl.where(total == 0.0, 1.0, total)))


@triton.jit
def _add(sums, parts, part_lse, at, step, splits, real, share, whole, w, WIDE: tl.constexpr):
    base = tl.where(whole == float("-inf"), 0.0, whole)
    for split in range(splits):
        place = split * step + at
        factor = share * tl.exp(tl.load(part_lse + place, mask=real, other=float("-inf")) - base)
        columns = real[:, None] & (w < WIDE)[None, :]
        sums += factor[:, None] * tl.load(parts + place[:, None] * WIDE + w[None, :], mask=columns, other=0.0)
    return sums


@triton.jit
def _recycle(
    parts, part_lse, output, weights, rows, splits, fraction, min_share, min_ratio,
    WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    real, w = row < rows, tl.arange(0, BLOCK_W)
    whole, step = tl.cast(rows, tl.int64), 4 * tl.cast(rows, tl.int64)
    a = _whole(part_lse, row, step, splits, real)
    b = _whole(part_lse, row + whole, step, splits, real)
    c = _whole(part_lse, row + 2 * whole, step, splits, real)
    d = _whole(part_lse, row + 3 * whole, step, splits, real)
    top = tl.maximum(tl.maximum(a, b), tl.maximum(c, d))
    base = tl.where(top == float("-inf"), 0.0, top)
    giver, drain, target, rest = tl.exp(a - base), tl.exp(b - base), tl.exp(c - base), tl.exp(d - base)
    total = giver + drain + target + rest
    total = tl.where(total == 0.0, 1.0, total)
    giver, drain, target, rest = giver / total, drain / total, target / total, rest / total
    tl.store(weights + row, giver, mask=real)
    tl.store(weights + row + whole, drain, mask=real)
    tl.store(weights + row + 2 * whole, target, mask=real)
    tl.store(weights + row + 3 * whole, rest, mask=real)
    both = drain + target
    applies = (both >= min_share) & (target >= min_ratio * both) & (drain > 0.0) & (target > 0.0)
    given = tl.where(applies, fraction, 0.0)
    target += given * (giver + drain)
    giver, drain = giver - given * giver, drain - given * drain
    sums = tl.zeros([BLOCK_R, BLOCK_W], tl.float32)
    sums = _add(sums, parts, part_lse, row, step, splits, real, giver, a, w, WIDE)
    sums = _add(sums, parts, part_lse, row + whole, step, splits, real, drain, b, w, WIDE)
    sums = _add(sums, parts, part_lse, row + 2 * whole, step, splits, real, target, c, w, WIDE)
    sums = _add(sums, parts, part_lse, row + 3 * whole, step, splits, real, rest, d, w, WIDE)
    tl.store(output + row[:, None] * WIDE + w[None, :], sums, mask=real[:, None] & (w < WIDE)[None, :])


def recycled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: Tensor,
    scaling: float,
    rule: Recycling,
    position: Tensor | None,
    tile: tuple[int, int] | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As `vtokens.kernels.reweighed_attention` with four groups; `tile` and `splits` are chosen if not given."""
    parts, part_lse = attend(
        query, key, value, scaling, group=group, groups=4, position=position, tile=tile, splits=splits
    )
    output, weights = torch.empty_like(parts[0, 0]), torch.empty_like(part_lse[0])
    rows, wide = weights[0].numel(), parts.shape[-1]
    if output.numel():
        _recycle[(triton.cdiv(rows, 16),)](
            parts, part_lse, output, weights, rows, len(parts), rule.fraction, rule.min_share, rule.min_ratio,
            WIDE=wide, BLOCK_R=16, BLOCK_W=max(16, triton.next_power_of_2(wide)), num_warps=4,
        )  # fmt: skip
    return output, weights
