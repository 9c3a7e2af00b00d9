"""Unique rows at all of their positions, each turned by its position's angle."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels._dispatch import use_triton
from vtokens.kernels._precision import as_given


@as_given
def unfold(states: Tensor, member: Tensor, cos: Tensor | None = None, sin: Tensor | None = None) -> Tensor:
    """Copies of unique states: (B, H, U, D) -> (B, H, N, D), position n holding row `member[b, n]`.

    Args:
        states: (B, H, U, D).
        member: int64 (B, N) into U; below 0 is padding, which takes row 0.
        cos, sin: (B or 1, N, D), the rotary embedding that `rotate` then applies to each copy; None turns nothing.
    """
    if cos is None or sin is None:
        batch = torch.arange(len(member), device=member.device)[:, None]
        return states.transpose(1, 2)[batch, member.clamp(min=0)].transpose(1, 2)
    if use_triton(states, cos, sin):
        from vtokens.kernels._triton.unfold import unfold as fused

        return fused(states, member, cos, sin)
    return rotate(unfold(states, member), cos, sin)


@as_given
def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotary embedding of states (B, H, N, D), dimension d paired with d + D/2.

    Args:
        states: un-rotated queries or keys.
        cos, sin: (B or 1, N, D) of each position's angles.
    """
    turned, half = states * cos[:, None], states.shape[-1] // 2
    first, second = states.to(turned.dtype).chunk(2, -1)
    low, high = sin[:, None].to(turned.dtype).chunk(2, -1)
    turned[..., :half].addcmul_(second, low, value=-1)
    turned[..., half:].addcmul_(first, high)
    return turned
