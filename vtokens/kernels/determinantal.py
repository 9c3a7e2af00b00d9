"""Greedy MAP of a determinantal point process: the subset whose determinant each choice raises most."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.on_device import on_device
from vtokens.kernels._ahead import Ahead
from vtokens.kernels._precision import as_given

_EXHAUSTED = 1e-5
"""A token is a sum of those chosen where no more than this is left of it, a share of its squared length."""


@as_given
def determinantal(tokens: Tensor, weight: Tensor, valid: Tensor, counts: Sequence[int]) -> Tensor:
    """Grow subsets by the token with the largest gain of det(L), L = diag(weight) cosines diag(weight).

    The incremental Cholesky factor of the cosines is kept, K x M numbers a set, never a matrix of M x M (Chen et al.,
    arXiv:1709.05135): what is left of a token's unit vector beside those chosen, times its squared weight, is the
    factor by which it raises the determinant. Once all tokens are sums of those chosen, the highest weights follow.
    Ties go to the earlier token. Nothing waits for the device.

    Args:
        tokens: (G, M, D), any float dtype.
        weight: floating (G, M), 0 or more.
        valid: bool (G, M).
        counts: how many to choose of each set, on the host; no more than it has valid tokens.

    Returns:
        bool (G, M), True on exactly `counts[g]` valid tokens of each set.

    Raises:
        ValueError: shapes that do not fit, or a count below 0 or above M.
    """
    groups, most = valid.shape
    if tokens.shape[:2] != valid.shape or weight.shape != valid.shape or len(counts) != groups:
        raise ValueError(
            f"tokens {tuple(tokens.shape)}, weight {tuple(weight.shape)}, valid {tuple(valid.shape)} and {len(counts)} "
            "counts do not fit: they must be (G, M, D), (G, M), (G, M) and G"
        )
    if any(not 0 <= count <= most for count in counts):
        raise ValueError(f"counts are {list(counts)}: 0 to {most} are allowed")
    unit, squared = normalize(tokens.detach().float(), dim=-1), weight.detach().float().square()
    left = unit.square().sum(2).round()  # 1, or 0 of a zero vector
    limit = on_device(counts, unit.device, dtype=torch.long)
    group, chosen = torch.arange(groups, device=unit.device), torch.zeros_like(valid)
    ahead = Ahead(unit) if Ahead.pays(unit) else None
    factor = unit.new_zeros(groups, max(counts, default=0), most)
    for step in range(factor.shape[1]):
        # Once all determinants are 0, rounding must not choose.
        there, more = valid & ~chosen, left > _EXHAUSTED
        some = (more & there).any(1, keepdim=True)
        gain = torch.where(some, torch.where(more, left * squared, -1.0), squared)
        worth = gain.masked_fill(~there, -torch.inf)
        pick = worth.argmax(1)
        now = left[group, pick]
        chosen[group, pick] |= step < limit
        if ahead is None:
            row = torch.bmm(unit, unit[group, pick][..., None])[..., 0]
        else:
            row = ahead.like(pick, worth)
        if step:
            row -= torch.bmm(factor[group, :step, pick][:, None], factor[:, :step])[:, 0]
        row = torch.where((now > _EXHAUSTED)[:, None], row * now.clamp(min=_EXHAUSTED).rsqrt()[:, None], 0)
        factor[:, step] = row
        left = left - row.square()
    return chosen
