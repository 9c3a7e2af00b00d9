"""What a strategy answers when it is asked which visual tokens stay."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from vtokens.core.on_device import on_device


@dataclass(frozen=True)
class Selection:
    """Which visual tokens stay.

    Attributes:
        keep: bool (G, M).
        counts: how many in each group; None if only the device knows. It holds: where `keep` has more, the first of
            them stay, and where it has fewer, the first of the others stay too.
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


def as_said(selection: Selection, valid: Tensor) -> Selection:
    """The same selection, with as many tokens of each group as its counts say.

    What is gathered for a whole batch goes by the counts. A choice by comparisons keeps more or fewer of a picture
    whose features are NaN, as where a tower overflows, and other rows would get what is not theirs.

    Args:
        selection: which tokens stay, and how many of each group.
        valid: bool (G, M), False on padding.
    """
    if selection.counts is None or not selection.counts:
        return selection
    keep = selection.keep & valid
    counts = on_device(selection.counts, keep.device)[:, None]
    keep = keep & (keep.cumsum(1) <= counts)
    others = valid & ~keep
    return replace(selection, keep=keep | (others & (others.cumsum(1) <= counts - keep.sum(1, keepdim=True))))
