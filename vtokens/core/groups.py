"""Visual tokens of a batch gathered into padded groups, and scattered back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vtokens.core.on_device import on_device


@dataclass(frozen=True)
class Groups:
    """Visual tokens gathered into padded groups.

    Attributes:
        index: int64 (G, M), flat positions in (B, N); arbitrary where not `valid`.
        valid: bool (G, M).
        counts: tokens of each group, on the host.
    """

    index: Tensor
    valid: Tensor
    counts: tuple[int, ...]

    @staticmethod
    def of(group: Tensor, counts: Sequence[int]) -> Groups:
        """Groups from group ids (B, N), -1 for positions in none; ids count up in sequence order per row."""
        flat = group.flatten()
        size, most = len(counts), max(counts, default=0)
        order = torch.argsort(torch.where(flat < 0, size, flat), stable=True)
        start = torch.tensor([0, *np.cumsum(counts)[:-1]] if counts else [], dtype=torch.long)
        step = torch.arange(most, device=flat.device)
        number = on_device(counts, flat.device, dtype=torch.long)
        slot = (on_device(start, flat.device)[:, None] + step).clamp(max=flat.numel() - 1)
        return Groups(order[slot], step < number[:, None], tuple(counts))

    def gather(self, values: Tensor) -> Tensor:
        """(B, N, ...) -> (G, M, ...)."""
        return values.flatten(0, 1)[self.index]

    def scatter(self, keep: Tensor, like: Tensor) -> Tensor:
        """bool (G, M) -> bool (B, N): True where a valid slot is kept; `like` gives the shape."""
        # Padding slots share flat positions with real ones, so they must be added, never assigned.
        hits = torch.zeros(like.numel(), dtype=torch.int32, device=keep.device)
        hits.index_add_(0, self.index.flatten(), (keep & self.valid).flatten().to(torch.int32))
        return (hits > 0).view_as(like)

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        """(G, M) -> (B, N): the value of a valid slot at its position, 0 elsewhere; `like` gives the shape."""
        found = torch.zeros(like.numel(), dtype=values.dtype, device=values.device)
        return found.index_add(0, self.index.flatten(), values.masked_fill(~self.valid, 0).flatten()).view(like.shape)

    def stand(self, member: Tensor, like: Tensor) -> Tensor:
        """int64 (G, M) of slots -> int64 (B, N): where the slot is that stands for each position, or its own place."""
        batch, width = like.shape
        at = self.index.gather(1, member) % width + 1
        found = torch.zeros(like.numel(), dtype=torch.long, device=member.device)
        found = found.scatter_reduce(0, self.index.flatten(), torch.where(self.valid, at, 0).flatten(), "amax")
        place = torch.arange(width, device=member.device).expand(batch, -1)
        return torch.where(found.view(batch, width) > 0, found.view(batch, width) - 1, place)
