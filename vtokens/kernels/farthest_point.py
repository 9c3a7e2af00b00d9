"""Greedy diverse subsets: farthest-first (k-center) and greedy max-sum, for a batch of token sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vtokens.core.errors import unknown
from vtokens.core.on_device import on_device
from vtokens.kernels._dispatch import use_triton
from vtokens.kernels._greedy import LAST, greedy
from vtokens.kernels._precision import EQUAL, as_given

OBJECTIVES = ("maxsum", "kcenter")
_LIGHTEST, _HEAVIEST = 1e-30, 1e30
_GRAM = 1 << 28
"""Most similarities held at once, in elements: 1 GiB."""


@as_given
def farthest_point(
    tokens: Tensor,
    valid: Tensor,
    counts: Sequence[int],
    start: Tensor,
    objective: Literal["maxsum", "kcenter"] = "maxsum",
    weight: Tensor | None = None,
) -> Tensor:
    """Grow a subset from `start`, each time adding the token least similar (cosine) to those chosen.

    "maxsum" compares the sum of similarities to the chosen tokens (ToDRE v2, greedy max-sum), "kcenter" the largest
    one (farthest-first traversal, within twice the optimal radius in the chord metric). Ties go to the earlier token,
    and cosines that equal 1 up to rounding are ties: of a flat picture the first tokens are kept.

    Args:
        tokens: (G, M, D), any float dtype; zero vectors count as dissimilar to everything. Those that hold NaN or
            infinity, or are too long for float32, come after all others and have no say in the choice of those.
        valid: bool (G, M), False on the padding of shorter sets.
        counts: how many to choose of each set, on the host; no more than it has valid tokens.
        start: int64 (G,), the first token of each set.
        objective: "maxsum" or "kcenter".
        weight: floating (G, M), 0 or more: of "kcenter", the distance 1 - cosine to the nearest chosen token counts so
            many times (weighted k-center), NaN for nothing; None weighs all alike.

    Returns:
        bool (G, M), True on exactly `counts[g]` valid tokens of each set.

    Raises:
        TypeError: tokens that are no floating point, or `valid` no bool.
        ValueError: another objective, weights beside "maxsum", shapes that do not fit, or a count below 0 or above M.
    """
    counts = list(counts)
    _check(tokens, valid, counts, start, objective, weight)
    if weight is not None:  # what counts for nothing comes last, and is told from what was chosen
        weight = weight.detach().float().nan_to_num(0.0).clamp(_LIGHTEST, _HEAVIEST)
    tokens, kcenter = tokens.detach(), objective == "kcenter"
    if not max(counts, default=0):
        return torch.zeros_like(valid)
    if weight is None and use_triton(tokens):
        from vtokens.kernels._triton.farthest_point import farthest_point as fused

        return fused(tokens, valid, counts, start, kcenter)
    if tokens.device.type == "cpu":
        return _one_by_one(tokens, valid, counts, start, kcenter, weight)
    return _together(tokens, valid, counts, start, kcenter, weight)


def _one_by_one(
    tokens: Tensor, valid: Tensor, counts: list[int], start: Tensor, kcenter: bool, weight: Tensor | None
) -> Tensor:
    """Set after set, each without its padding."""
    chosen = torch.zeros_like(valid)
    for group, (count, first) in enumerate(zip(counts, start.tolist(), strict=True)):
        if not count:
            continue
        own = None if weight is None else weight[group]
        if valid[group].all():
            chosen[group, greedy(tokens[group].float(), count, first, kcenter, own)] = True
            continue
        place = valid[group].nonzero()[:, 0]
        if count > len(place) or not valid[group, first]:
            raise ValueError(
                f"set {group} is to give {count} tokens, {first} the first: it has {len(place)} valid ones, and the "
                "first must be one of them"
            )
        first = int(torch.searchsorted(place, first))
        own = None if own is None else own[place]
        chosen[group, place[greedy(tokens[group, place].float(), count, first, kcenter, own)]] = True
    return chosen


def _together(
    tokens: Tensor, valid: Tensor, counts: list[int], start: Tensor, kcenter: bool, weight: Tensor | None = None
) -> Tensor:
    """All sets at once, without waiting for the device."""
    tokens = tokens.float()
    length = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    lost = ~(length < torch.inf)
    unit, lost = (tokens / length.clamp(min=1e-12)).masked_fill(lost, 0), lost[..., 0]
    weight = None if weight is None else weight.masked_fill(lost, 1)
    groups, most, _ = unit.shape
    group = torch.arange(groups, device=unit.device)
    gram = unit @ unit.transpose(1, 2) if groups * most * most <= _GRAM else None
    limit = on_device(counts, unit.device, dtype=torch.long)
    chosen = torch.zeros_like(valid)
    # Chosen and padding tokens carry +inf from the start, so argmin alone finds the next one.
    cost = torch.zeros_like(unit[..., 0]).masked_fill_(~valid, torch.inf)
    if kcenter:
        cost.masked_fill_(valid, -torch.inf)
    cost.masked_fill_(lost & valid, LAST)
    pick = start
    # The greedy choice is sequential by definition; each step is a handful of batched operations.
    for step in range(max(counts)):
        chosen[group, pick] |= step < limit
        similar = gram[group, pick] if gram is not None else torch.einsum("gmd,gd->gm", unit, unit[group, pick])
        similar = similar.masked_fill(similar > EQUAL, 1)
        cost = torch.maximum(cost, similar) if kcenter else cost + similar
        cost[group, pick] = torch.inf
        pick = cost.argmin(1) if weight is None else ((cost - 1) * weight).argmin(1)
    return chosen


def _check(
    tokens: Tensor, valid: Tensor, counts: list[int], start: Tensor, objective: str, weight: Tensor | None
) -> None:
    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    if weight is not None and (objective != "kcenter" or weight.shape != valid.shape):
        raise ValueError(
            f"weight {tuple(weight.shape)} beside objective={objective!r}: one for each token, "
            f"{tuple(valid.shape)}, is allowed beside 'kcenter'"
        )
    if not tokens.is_floating_point() or valid.dtype != torch.bool:
        raise TypeError(f"tokens are {tokens.dtype} and valid is {valid.dtype}: floating point and bool are needed")
    groups = len(counts)
    if tokens.dim() != 3 or valid.shape != tokens.shape[:2] or start.shape != (groups,) or len(tokens) != groups:
        raise ValueError(
            f"tokens {tuple(tokens.shape)}, valid {tuple(valid.shape)}, {groups} counts and start {tuple(start.shape)} "
            "do not fit: they must be (G, M, D), (G, M), G and (G,)"
        )
    if counts and not 0 <= min(counts) <= max(counts) <= tokens.shape[1]:
        raise ValueError(f"counts are {min(counts)} to {max(counts)}: 0 to {tokens.shape[1]} is allowed")
