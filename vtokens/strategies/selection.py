"""What a strategy answers when it is asked which visual tokens stay."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """Which visual tokens stay.

    Attributes:
        keep: bool (G, M).
        counts: how many in each group; None if only the device knows.
        weights: floating (G, K, M), where a kept token becomes a weighted sum of its group's tokens: a row for each
            kept one, in order, K being the most that any group keeps; rows of groups that keep fewer are not looked at.
            As `into` is shaped beside that. None: they stay as they are.
        into: int64 (G, M), where each token goes into one kept one: its slot; `weights` are then how much of each token
            goes there, so that nothing grows with kept times dropped tokens. What names a dropped one is gone.
            (G, M, J), as `weights`, where each goes into J of them.
        sizes: floating (G, K), above 0: from here on, attention sees each kept token as that many equal ones, by
            log(size) on its score (proportional attention, ToMe, arXiv:2210.09461). None: each counts as before.
        share: how much of that logarithm is added, 1 for all of it. `Visuals.sizes` tells sizes whatever it is.
        member: int64 (G, M), for each token the slot of the kept one that goes on for it: attention then sees all their
            positions. None: what is dropped is gone.
    """

    keep: Tensor
    counts: tuple[int, ...] | None = None
    member: Tensor | None = None
    weights: Tensor | None = None
    sizes: Tensor | None = None
    into: Tensor | None = None
    share: float = 1.0
