"""The mean over the positions at which each unique row stands."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels._dispatch import use_triton
from vtokens.kernels._precision import as_given


@as_given
def group_mean(states: Tensor, member: Tensor, unique: int) -> Tensor:
    """Mean over the copies of each unique token: (B, H, N, D) -> (B, H, U, D), summed in float32.

    Args:
        states: one row a position.
        member: int64 (B, N) into U; positions below 0 belong to nobody.
        unique: U. Rows without members are zero.
    """
    if use_triton(states) and states.numel():
        from vtokens.kernels._triton.group_mean import group_mean as fused

        return fused(states, member, unique)
    return reference(states, member, unique)


def reference(states: Tensor, member: Tensor, unique: int) -> Tensor:
    """In plain PyTorch. On CUDA three or more copies are added in no fixed order."""
    batch, heads, length, dim = states.shape
    weight = (member >= 0).float()
    start = unique * torch.arange(batch, device=member.device)[:, None]
    flat = (member.clamp(min=0) + start).flatten()
    count = torch.zeros(batch * unique, device=states.device).index_add_(0, flat, weight.flatten())
    # Weights first: exactly 1 for a token of its own, and no sum leaves the range of its parts.
    weight = weight.flatten() / count[flat].clamp(min=1)
    rows = (states.transpose(1, 2).reshape(batch * length, heads * dim) * weight[:, None]).float()
    mean = torch.zeros(batch * unique, heads * dim, device=states.device).index_add(0, flat, rows)
    return mean.to(states.dtype).view(batch, unique, heads, dim).transpose(1, 2)
