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
        member: int64 (G, M), for each token the slot of the kept one that goes on for it: attention then sees all their
            positions. None: what is dropped is gone.
    """

    keep: Tensor
    counts: tuple[int, ...] | None = None
    member: Tensor | None = None
