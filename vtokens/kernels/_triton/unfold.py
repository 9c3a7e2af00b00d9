"""Gathers unique rows to their positions and turns them on the way: one read, one write."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vtokens.kernels._dispatch import interpreted


@triton.jit
def _unfold(
    states, member, cos, sin, out,
    s_batch, s_head, s_row, m_batch, m_row, c_batch, c_row, n_batch, n_row, heads, length,
    HALF: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    n, h = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64), tl.arange(0, BLOCK_H)
    real = n < length
    source = tl.maximum(tl.load(member + batch * m_batch + n * m_row, mask=real, other=0).to(tl.int64), 0)
    inside = real[:, None] & (h < HALF)[None, :]
    row = states + batch * s_batch + head * s_head + source[:, None] * s_row + h[None, :]
    c_at, s_at = cos + batch * c_batch + n[:, None] * c_row, sin + batch * n_batch + n[:, None] * n_row
    low, high = tl.load(row, mask=inside, other=0.0), tl.load(row + HALF, mask=inside, other=0.0)
    c_low = tl.load(c_at + h[None, :], mask=inside, other=0.0)
    c_high = tl.load(c_at + HALF + h[None, :], mask=inside, other=0.0)
    s_low = tl.load(s_at + h[None, :], mask=inside, other=0.0)
    s_high = tl.load(s_at + HALF + h[None, :], mask=inside, other=0.0)
    if UPCAST:
        low, high = low.to(tl.float32), high.to(tl.float32)
        c_low, c_high = c_low.to(tl.float32), c_high.to(tl.float32)
        s_low, s_high = s_low.to(tl.float32), s_high.to(tl.float32)
    at = out + ((batch * heads + head) * length + n[:, None]) * (2 * HALF) + h[None, :]
    tl.store(at, low * c_low - high * s_low, mask=inside)
    tl.store(at + HALF, high * c_high + low * s_high, mask=inside)


def unfold(states: Tensor, member: Tensor, cos: Tensor, sin: Tensor, block: int = 32) -> Tensor:
    """As `vtokens.kernels.unfold` with angles; `block` positions a program. Contiguous, rounded once."""
    (batch, heads, _, dim), length = states.shape, member.shape[1]
    states, cos, sin = (part if part.stride(-1) == 1 else part.contiguous() for part in (states, cos, sin))
    dtype = torch.promote_types(states.dtype, cos.dtype)
    out = torch.empty(batch, heads, length, dim, dtype=dtype, device=states.device)
    if not out.numel():
        return out
    angles = [stride for part in (cos, sin) for stride in part.expand(batch, -1, -1).stride()[:2]]
    _unfold[(triton.cdiv(length, block), batch * heads)](
        states, member, cos, sin, out, *states.stride()[:3], *member.stride(), *angles, heads, length,
        HALF=dim // 2, BLOCK_N=block, BLOCK_H=triton.next_power_of_2(dim // 2), UPCAST=interpreted(), num_warps=4,
    )  # fmt: skip
    return out
