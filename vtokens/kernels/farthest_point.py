"""Greedy diverse subsets: farthest-first (k-center) and greedy max-sum, for a batch of token sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

_GRAM_LIMIT = 8192
"""Above this many tokens similarities are computed a row at a time instead of as one M x M matrix."""


def farthest_point(
    tokens: Tensor,
    valid: Tensor,
    counts: Sequence[int],
    start: Tensor,
    objective: Literal["maxsum", "kcenter"] = "maxsum",
) -> Tensor:
    """Grow a subset from `start`, each time adding the token least similar (cosine) to those chosen.

    "maxsum" compares the sum of similarities to the chosen tokens (ToDRE v2, greedy max-sum), "kcenter" the largest
    one (farthest-first traversal, within twice the optimal radius in the chord metric). Ties go to the earlier token.

    Args:
        tokens: (G, M, D), any float dtype; zero vectors count as dissimilar to everything.
        valid: bool (G, M), False on the padding of shorter sets.
        counts: how many to choose of each set, on the host.
        start: int64 (G,), the first token of each set.
        objective: "maxsum" or "kcenter".

    Returns:
        bool (G, M), True on exactly `counts[g]` valid tokens of each set.
    """
    unit = torch.nn.functional.normalize(tokens.detach().float(), dim=-1)
    groups, most, _ = unit.shape
    group = torch.arange(groups, device=unit.device)
    gram = unit @ unit.transpose(1, 2) if most <= _GRAM_LIMIT else None
    limit = torch.tensor(list(counts), dtype=torch.long).to(unit.device)
    chosen = torch.zeros_like(valid)
    # Chosen and padding tokens carry +inf from the start, so argmin alone finds the next one.
    cost = torch.zeros_like(unit[..., 0]).masked_fill_(~valid, torch.inf)
    if objective == "kcenter":
        cost.masked_fill_(valid, -torch.inf)
    pick = start
    ragged = len(set(counts)) > 1
    # The greedy choice is sequential by definition; each step is a handful of batched operations.
    for step in range(max(counts, default=0)):
        if ragged:
            open_ = step < limit
            chosen[group, pick] |= open_
        else:
            chosen[group, pick] = True
        similar = gram[group, pick] if gram is not None else torch.einsum("gmd,gd->gm", unit, unit[group, pick])
        cost = cost + similar if objective == "maxsum" else torch.maximum(cost, similar)
        cost[group, pick] = torch.inf
        pick = cost.argmin(1)
    return chosen
