"""Means over positions: each unique row walks the list of its positions, so nothing is added atomically."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vtokens.kernels._dispatch import interpreted


@triton.jit
def _mean(
    states, order, bounds, out, s_batch, s_head, s_row, heads, length, unique,
    DIM: tl.constexpr, BLOCK_C: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    row, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    column = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = column < heads * DIM
    base = states + batch * s_batch + (column // DIM).to(tl.int64) * s_head + column % DIM
    begin = tl.load(bounds + batch * (unique + 1) + row).to(tl.int32)
    end = tl.load(bounds + batch * (unique + 1) + row + 1).to(tl.int32)
    # A share first: exactly 1 for a token of its own, and no sum leaves the range of its parts.
    share = 1.0 / tl.maximum(end - begin, 1).to(tl.float32)
    mean = tl.zeros([BLOCK_C], tl.float32)
    for place in range(begin, end):
        position = tl.load(order + batch * length + place).to(tl.int64)
        part = tl.load(base + position * s_row, mask=real, other=0.0)
        if UPCAST:
            part = part.to(tl.float32)
        mean += part.to(tl.float32) * share
    tl.store(out + (batch * unique + row) * (heads * DIM) + column, mean, mask=real)


def group_mean(states: Tensor, member: Tensor, unique: int, block: int | None = None) -> Tensor:
    """As `vtokens.kernels.group_mean`; `block` columns of all heads a program, chosen if not given."""
    batch, heads, length, dim = states.shape
    states = states if states.stride(-1) == 1 else states.contiguous()
    out = torch.empty(batch, unique, heads, dim, dtype=states.dtype, device=states.device)
    if not out.numel():
        return out.transpose(1, 2)
    # The positions of a row lie side by side in `order`, those of padding behind all others.
    ordered, order = member.masked_fill(member < 0, unique).sort(dim=1, stable=True)
    rows = torch.arange(unique + 1, device=member.device).expand(batch, -1).contiguous()
    bounds = torch.searchsorted(ordered, rows.to(ordered.dtype))
    block = min(1024, triton.next_power_of_2(heads * dim)) if block is None else block
    _mean[(unique, batch, triton.cdiv(heads * dim, block))](
        states, order, bounds, out, *states.stride()[:3], heads, length, unique,
        DIM=dim, BLOCK_C=block, UPCAST=interpreted(), num_warps=4,
    )  # fmt: skip
    return out.transpose(1, 2)
