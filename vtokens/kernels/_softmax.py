"""Attention over some of a row's keys, and how it is joined with attention over others."""

from __future__ import annotations

import torch
from torch import Tensor

Part = tuple[Tensor, Tensor]
"""Outputs (C, M, D_v) and log-sum-exps (C, M), natural logarithm."""


def fusible(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether PyTorch's fused kernel for CPUs takes it: no gradient through log-sum-exps, one size of channels."""
    wanted = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
    return query.device.type == "cpu" and key.shape[-1] == value.shape[-1] and not wanted


def attend(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None, triangle: bool, fused: bool
) -> Part:
    """Softmax attention and its log-sum-exp.

    Args:
        query: (C, M, D), float32 or float64.
        key: (C, N, D).
        value: (C, N, D_v).
        scaling: the factor on the products.
        mask: (C, M, N), finite, added to the scores.
        triangle: M = N, and a row sees its own key and those before; only where fused.
        fused: by one operation that keeps scores in the cache; `fusible` says whether it can.
    """
    if fused:
        states = query[:, None], key[:, None], value[:, None]
        # What `scaled_dot_product_attention` runs on a CPU; it does not hand out log-sum-exps.
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *states, 0.0, triangle, attn_mask=None if mask is None else mask[:, None].to(query.dtype), scale=scaling
        )
        return output[:, 0], lse[:, 0]
    scores = torch.bmm(query * scaling, key.transpose(1, 2))
    if mask is not None:
        scores = scores.add_(mask)
    # A constant to the gradient: neither output nor log-sum-exp depends on it.
    top = scores.detach().amax(-1)
    shares = scores.sub_(top[..., None]).exp_()
    total = shares.sum(-1)
    return torch.bmm(shares, value) / total[..., None], top + total.log()


def merge(one: Part, other: Part) -> Part:
    """Attention over the keys of both, which must not overlap; log-sum-exps are finite."""
    (output, lse), (more, further) = one, other
    share = (further - lse).sigmoid()[..., None]
    joined = output.lerp(more, share) if output.requires_grad or more.requires_grad else output.lerp_(more, share)
    return joined, torch.logaddexp(lse, further)
