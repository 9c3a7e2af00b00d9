"""The greedy choice on a GPU: all similarities once, then one program a set that never leaves its registers.

Sets too large for that take a launch a choice, which compares the last choice with all tokens and is the first to learn
which one it was: each program looks through the minima that those of the launch before have left.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vtokens.kernels._greedy import LAST
from vtokens.kernels._precision import EQUAL

_LAST, _EQUAL = tl.constexpr(LAST), tl.constexpr(EQUAL)
_WIDEST = 16384
"""Most tokens of a set that a program holds."""
_GRAM = 1 << 28
"""Most similarities held at once, in elements: 1 GiB."""


@triton.jit
def _walk(
    gram, scale, valid, start, count, chosen, tokens,
    BLOCK: tl.constexpr, KCENTER: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0).to(tl.int64)
    m = tl.arange(0, BLOCK)
    inside = m < tokens
    there = tl.load(valid + group * tokens + m, mask=inside, other=0) != 0
    mine = tl.load(scale + group * tokens + m, mask=inside, other=0.0)
    # 1 / length: 0 or NaN of what has no direction, which comes last and is like nothing.
    cost = tl.where(mine > 0, float("-inf") if KCENTER else 0.0, _LAST)
    cost = tl.where(there, cost, float("inf"))
    taken = tl.zeros([BLOCK], tl.int32)
    pick = tl.load(start + group).to(tl.int32)
    for _ in range(tl.load(count + group)):
        row = tl.load(gram + (group * tokens + pick) * tokens + m, mask=inside, other=0.0)
        similar = row * mine * tl.load(scale + group * tokens + pick)
        similar = tl.where(tl.abs(similar) < float("inf"), tl.where(similar > _EQUAL, 1.0, similar), 0.0)
        now = m == pick
        cost = tl.maximum(cost, similar) if KCENTER else cost + similar
        cost = tl.where(now, float("inf"), cost)
        taken = tl.where(now, 1, taken)
        pick = tl.argmin(cost, 0).to(tl.int32)
    tl.store(chosen + group * tokens + m, taken.to(tl.int8), mask=inside)


@triton.jit
def _choose(
    states, scale, start, count, cost, low, place, chosen, step, tokens, tiles, s_group, s_token,
    DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, TILES: tl.constexpr,
    KCENTER: tl.constexpr,
):  # fmt: skip
    tile, group = tl.program_id(0), tl.program_id(1).to(tl.int64)
    groups = tl.num_programs(1)
    if step < tl.load(count + group):
        pick = tl.load(start + group).to(tl.int32)
        if step > 0:
            t = tl.arange(0, TILES)
            before = (((step - 1) % 2) * groups + group) * tiles
            least = tl.argmin(tl.load(low + before + t, mask=t < tiles, other=float("inf")), 0)
            pick = tl.load(place + before + least)
        m, d = tile * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
        inside = m < tokens
        far = states + group * s_group
        similar = tl.zeros([BLOCK_M], tl.float32)
        for first in range(0, DIM, BLOCK_D):
            seen = first + d < DIM
            one = tl.load(far + pick.to(tl.int64) * s_token + first + d, mask=seen, other=0.0)
            at = far + m.to(tl.int64)[:, None] * s_token + (first + d)[None, :]
            all_ = tl.load(at, mask=inside[:, None] & seen[None, :], other=0.0)
            similar += tl.sum(all_.to(tl.float32) * one.to(tl.float32)[None, :], 1)
        mine = tl.load(scale + group * tokens + m, mask=inside, other=0.0)
        similar = similar * mine * tl.load(scale + group * tokens + pick)
        similar = tl.where(tl.abs(similar) < float("inf"), tl.where(similar > _EQUAL, 1.0, similar), 0.0)
        here = cost + group * tokens + m
        now = tl.load(here, mask=inside, other=float("inf"))
        now = tl.maximum(now, similar) if KCENTER else now + similar
        now = tl.where(m == pick, float("inf"), now)
        tl.store(here, now, mask=inside)
        after = ((step % 2) * groups + group) * tiles + tile
        tl.store(low + after, tl.min(now, 0))
        tl.store(place + after, tile * BLOCK_M + tl.argmin(now, 0).to(tl.int32))
        tl.store(chosen + group * tokens + m, tl.full([BLOCK_M], 1, tl.int8), mask=inside & (m == pick))


def farthest_point(
    tokens: Tensor, valid: Tensor, counts: list[int], start: Tensor, kcenter: bool, widest: int = _WIDEST,
    block: tuple[int, int] = (32, 128),
) -> Tensor:  # fmt: skip
    """As `vtokens.kernels.farthest_point`.

    Args:
        tokens, valid, counts, start: as there.
        kcenter: which of the two objectives.
        widest: sets of more tokens take a launch a choice.
        block: tokens and channels that a program of such a launch compares at a time.
    """
    groups, most, _ = tokens.shape
    scale = torch.linalg.vector_norm(tokens, dim=-1, dtype=torch.float32).clamp_(min=1e-12).reciprocal_()
    count = torch.tensor(counts, dtype=torch.int32, device=tokens.device)
    start = start.to(tokens.device)
    if most > widest:
        return _by_launches(tokens, scale, valid, counts, count, start, kcenter, block)
    chosen = torch.empty(groups, most, dtype=torch.int8, device=tokens.device)
    valid, size = valid.contiguous(), triton.next_power_of_2(most)
    together = max(1, _GRAM // (most * most))
    for first in range(0, groups, together):
        part = slice(first, first + together)
        gram = products(tokens[part])
        _walk[(len(gram),)](
            gram, scale[part], valid[part].view(torch.uint8), start[part], count[part], chosen[part], most,
            BLOCK=size, KCENTER=kcenter, num_warps=settings(size),
        )  # fmt: skip
    return chosen != 0


def products(tokens: Tensor) -> Tensor:
    """float32 (G, M, M): all products of two tokens of a set, summed in float32."""
    if tokens.is_cuda and tokens.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(tokens, tokens.transpose(1, 2), out_dtype=torch.float32)
    tokens = tokens.float()
    return tokens @ tokens.transpose(1, 2)


def settings(block: int) -> int:
    """Warps that hold `block` tokens, 16 or 32 a thread at most."""
    return min(16, max(4, block // 512))


def _by_launches(
    tokens: Tensor, scale: Tensor, valid: Tensor, counts: list[int], count: Tensor, start: Tensor, kcenter: bool,
    block: tuple[int, int],
) -> Tensor:  # fmt: skip
    groups, most, dim = tokens.shape
    tokens = tokens if tokens.stride(-1) == 1 else tokens.contiguous()
    cost = torch.full_like(scale, -torch.inf if kcenter else 0.0)
    cost = cost.masked_fill_(~(scale > 0), LAST).masked_fill_(~valid, torch.inf)
    tiles = triton.cdiv(most, block[0])
    low = torch.empty(2, groups, tiles, device=tokens.device)
    place = torch.empty(2, groups, tiles, dtype=torch.int32, device=tokens.device)
    chosen = torch.zeros(groups, most, dtype=torch.int8, device=tokens.device)
    for step in range(max(counts)):
        _choose[(tiles, groups)](
            tokens, scale, start, count, cost, low, place, chosen, step, most, tiles, *tokens.stride()[:2],
            DIM=dim, BLOCK_M=block[0], BLOCK_D=block[1], TILES=triton.next_power_of_2(tiles), KCENTER=kcenter,
            num_warps=4,
        )  # fmt: skip
    return chosen != 0
