"""Positions of cached keys that hold merged tokens, and whether rotary embeddings were applied to each."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Copies:
    """The sequence that attention sees in place of the first keys of a cache layer.

    Attributes:
        member: int64 (B, P), the stored key that stands at each position, below 0 on padding.
        positions: int64 (B, C, P), its position in the rotary embedding; C is 3 under M-RoPE, else 1.
        turned: bool (B, P), the key was stored with its rotary embedding applied.
        origin: equal for cache layers for which all of this is the same.
    """

    member: Tensor
    positions: Tensor
    turned: Tensor
    origin: Hashable = field(default_factory=object)

    @property
    def length(self) -> int:
        """P."""
        return self.member.shape[1]

    def map(self, change: Callable[[Tensor], Tensor]) -> Copies:
        """The copies of other samples; `change` acts on the batch dimension."""
        return Copies(change(self.member), change(self.positions), change(self.turned), self.origin)

    def cropped(self, positions: int) -> Copies:
        """Without the last `positions`."""
        return Copies(
            self.member[:, :-positions],
            self.positions[:, :, :-positions],
            self.turned[:, :-positions],
            (self.origin, -positions),
        )

    def followed_by(self, other: Copies, keys: int) -> Copies:
        """This, and `other` behind it, whose keys are stored from `keys` on."""
        other = other.map(lambda part: part.to(self.member.device))
        moved = torch.where(other.member < 0, -1, other.member + keys)
        return Copies(
            torch.cat([self.member, moved], 1),
            torch.cat([self.positions, other.positions], 2),
            torch.cat([self.turned, other.turned], 1),
            (self.origin, other.origin, self.length),
        )

    @staticmethod
    def plain(valid: Tensor, channels: int) -> Copies:
        """Keys stored one to one with their rotary embedding applied; valid: bool (B, P)."""
        batch, length = valid.shape
        place = torch.arange(length, device=valid.device)
        return Copies(
            torch.where(valid, place, -1),
            torch.zeros(batch, channels, length, dtype=torch.long, device=valid.device),
            torch.ones_like(valid),
            "plain",
        )
