"""A greedy walk over tokens: the best is taken again and again, and each time what is left is worth something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vtokens.core.on_device import on_device
from vtokens.kernels._ahead import Ahead

Update = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(worth (G, M), cosines with the choice (G, M), worth of the choice (G, 1), its place (G, 1)) -> worth (G, M)."""
_GRAM = 1 << 26
"""Most cosines held at once, in elements: 256 MiB."""


def greedy_walk(tokens: Tensor, valid: Tensor, counts: Sequence[int], worth: Tensor, update: Update) -> Tensor:
    """Take the token that is worth most, let `update` say what the others are worth beside it, and go on.

    A walk of k choices begins as one of k - 1 does. Ties go to the earlier token. The loop is over choices, for all
    sets together, and waits for no device. Cosines are held where there is room for them, and else made a choice at a
    time; on a CPU those of many choices together (`Ahead`), and no more.

    Args:
        tokens: (G, M, D), any float dtype; zero vectors are like nothing.
        valid: bool (G, M), False on the padding of shorter sets.
        counts: how many to take of each set, on the host; no more than it has valid tokens.
        worth: floating (G, M), finite.
        update: gives the worth of all tokens once one is chosen; finite. What is chosen, and padding, is not looked at.

    Returns:
        bool (G, M), True on exactly `counts[g]` valid tokens of each set.

    Raises:
        ValueError: shapes that do not fit.
    """
    if tokens.dim() != 3 or valid.shape != tokens.shape[:2] or worth.shape != valid.shape or len(counts) != len(valid):
        raise ValueError(
            f"tokens {tuple(tokens.shape)}, valid {tuple(valid.shape)}, worth {tuple(worth.shape)} and {len(counts)} "
            "counts do not fit: they must be (G, M, D), (G, M), (G, M) and G"
        )
    unit = torch.nn.functional.normalize(tokens.detach().float(), dim=-1)
    groups, most, _ = unit.shape
    group = torch.arange(groups, device=unit.device)
    ahead = Ahead(unit) if Ahead.pays(unit) else None
    gram = unit @ unit.transpose(1, 2) if groups * most * most <= _GRAM and ahead is None else None
    limit = on_device(tuple(counts), unit.device, dtype=torch.long)
    worth, taken, chosen = worth.to(unit.device, torch.float32), ~valid, torch.zeros_like(valid)
    for step in range(max(counts, default=0)):
        now = worth.masked_fill(taken, -torch.inf)
        pick = now.argmax(1)
        chosen[group, pick] |= step < limit
        taken = taken.scatter(1, pick[:, None], True)
        if ahead is not None:
            like = ahead.like(pick, now)
        else:
            like = gram[group, pick] if gram is not None else torch.einsum("gmd,gd->gm", unit, unit[group, pick])
        worth = update(worth, like, worth.gather(1, pick[:, None]), pick[:, None])
    return chosen & valid
