"""Token merging on a GPU: partners are found without the matrix of similarities, means are summed in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vtokens.kernels._dispatch import interpreted
from vtokens.kernels._precision import TIE


@triton.jit
def _cosines(
    far, scale, target, open_, row, inside, mine, first, targets, m_token,
    DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    n, d = first + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    real = n < targets
    column = tl.load(target + n, mask=real, other=0)
    theirs = tl.load(scale + column, mask=real, other=0.0)
    product = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for c in range(0, DIM, BLOCK_D):
        seen = c + d < DIM
        at = far + row[:, None] * m_token + (c + d)[None, :]
        left = tl.load(at, mask=inside[:, None] & seen[None, :], other=0.0)
        at = far + column[None, :] * m_token + (c + d)[:, None]
        right = tl.load(at, mask=real[None, :] & seen[:, None], other=0.0)
        if UPCAST:
            left, right = left.to(tl.float32), right.to(tl.float32)
        product += tl.dot(left, right, input_precision="ieee")
    may = tl.load(open_ + n, mask=real, other=0) != 0
    return tl.where(may[None, :], product * mine[:, None] * theirs[None, :], float("-inf"))


@triton.jit
def _match(
    metric, scale, source, target, open_, score, best, sources, targets, tokens, m_batch, m_token,
    TIE: tl.constexpr, DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = m < sources
    row = tl.load(source + batch * sources + m, mask=inside, other=0)
    far, scale, target, open_ = (
        metric + batch * m_batch, scale + batch * tokens, target + batch * targets, open_ + batch * targets,
    )  # fmt: skip
    mine = tl.load(scale + row, mask=inside, other=0.0)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for first in range(0, targets, BLOCK_N):
        cosine = _cosines(
            far, scale, target, open_, row, inside, mine, first, targets, m_token, DIM, BLOCK_M, BLOCK_N, BLOCK_D,
            UPCAST,
        )  # fmt: skip
        top = tl.maximum(top, tl.max(cosine, 1))
    # Only who knows the largest can tell the earliest that ties with it, so the products are made again.
    where = tl.full([BLOCK_M], 0, tl.int32) + targets
    for first in range(0, targets, BLOCK_N):
        cosine = _cosines(
            far, scale, target, open_, row, inside, mine, first, targets, m_token, DIM, BLOCK_M, BLOCK_N, BLOCK_D,
            UPCAST,
        )  # fmt: skip
        n = first + tl.arange(0, BLOCK_N)
        where = tl.minimum(where, tl.min(tl.where(cosine >= (top - TIE)[:, None], n[None, :], targets), 1))
    tl.store(score + batch * sources + m, top, mask=inside)
    tl.store(best + batch * sources + m, where.to(tl.int64), mask=inside)


@triton.jit
def _mean(
    hidden, weight, order, begin, end, mean, tokens, width, h_batch, h_token,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < width
    at = batch * tokens + row
    total = tl.zeros([BLOCK], tl.float32)
    for number in range(tl.load(begin + at), tl.load(end + at)):
        token = tl.load(order + batch * tokens + number)
        part = tl.load(hidden + batch * h_batch + token * h_token + c, mask=inside, other=0.0).to(tl.float32)
        total += part * tl.load(weight + batch * tokens + token)
    tl.store(mean + at * width + c, total, mask=inside)


def match(
    metric: Tensor, source: Tensor, target: Tensor, may_take: Tensor, block: tuple[int, int, int] = (64, 64, 64)
) -> tuple[Tensor, Tensor]:
    """For each source its largest cosine with a target, and the first target that comes within `TIE` of it.

    Args:
        metric: (B, N, d).
        source: int64 (B, E), rows of `metric`.
        target: int64 (B, F).
        may_take: bool (B, F), False on targets nobody is compared with.
        block: sources, targets and channels of a tile.

    Returns:
        float32 (B, E), -inf where there is no target, and int64 (B, E) in [0, F).
    """
    (batch, tokens, dim), sources, targets = metric.shape, source.shape[1], target.shape[1]
    # Brought near 1 by powers of two, so that squares neither overflow nor vanish and no digit is lost.
    exponent = torch.frexp(metric.abs().amax(-1, keepdim=True).float()).exponent
    metric = torch.ldexp(metric.float(), -exponent).to(metric.dtype).contiguous()
    scale = torch.linalg.vector_norm(metric, dim=-1, dtype=torch.float32).clamp_(min=1e-12).reciprocal_()
    score = torch.empty(batch, sources, device=metric.device)
    best = torch.empty(batch, sources, dtype=torch.long, device=metric.device)
    if not score.numel():
        return score, best
    _match[(triton.cdiv(sources, block[0]), batch)](
        metric, scale, source.contiguous(), target.contiguous(), may_take.contiguous().view(torch.uint8), score, best,
        sources, targets, tokens, *metric.stride()[:2], TIE=TIE, DIM=dim, BLOCK_M=block[0], BLOCK_N=block[1],
        BLOCK_D=block[2], UPCAST=interpreted(), num_warps=4, num_stages=2,
    )  # fmt: skip
    return score, best


def mean(hidden: Tensor, weight: Tensor, row: Tensor, block: int = 256) -> Tensor:
    """Weighted sums of the tokens that go to the same row, in the order of the tokens.

    Args:
        hidden: (B, N, C).
        weight: float32 (B, N).
        row: int64 (B, N), where each token goes.
        block: channels that a program sums.

    Returns:
        (B, N, C), dtype of `hidden`, zero on rows nothing goes to.
    """
    batch, tokens, width = hidden.shape
    hidden = hidden if hidden.stride(-1) == 1 else hidden.contiguous()
    out = torch.empty_like(hidden, memory_format=torch.contiguous_format)
    if not out.numel():
        return out
    ordered, order = row.sort(dim=1, stable=True)
    every = torch.arange(tokens, device=row.device).expand(batch, -1).contiguous()
    begin, end = (torch.searchsorted(ordered, every, right=right) for right in (False, True))
    block = min(block, triton.next_power_of_2(width))
    _mean[(tokens, triton.cdiv(width, block), batch)](
        hidden, weight.contiguous(), order, begin, end, out, tokens, width, *hidden.stride()[:2],
        BLOCK=block, num_warps=4 if block > 128 else 1,
    )  # fmt: skip
    return out
