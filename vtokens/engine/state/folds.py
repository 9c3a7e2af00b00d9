"""Where merged tokens stand: the sequence of all positions that attention works on, and one column for each token.

Example: v1 and v2 were merged. The layer has one column for both, attention sees both positions.

    fed position     0   1   2   3
    fed              t0  v1  v2  t1
    column           0   1       2
    attention sees   0   1   1   2        Fold.member

Merged tokens change their type on the way:

    Merged -> Merging   one round in the tower -> which patch is in which token, after all rounds
    Unmerging           which surviving column represents each position, as the strategy asked that dropped the others
    Fold                the same for one decoder layer: Fold.member
    Copies              the same for the keys that a layer cached, with the rotary position of each
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from vtokens.core.layout import Layout
from vtokens.engine.state.view import View


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


@dataclass(frozen=True)
class Unmerging:
    """What a strategy asked to be unmerged in this pass.

    Attributes:
        view: how `layout` relates to the fed sequence; None if they are the same.
        layout: the sequence before the strategy dropped what it had merged.
        stands: int64 (B, W), for each position of that sequence, the surviving column that represents it.
        own: the view after it dropped them, in which all of them are still represented.
        positions: int64 (C, B, fed), rotary positions.
    """

    view: View | None
    layout: Layout
    stands: Tensor
    own: View
    positions: Tensor


@dataclass(frozen=True, eq=False)
class Fold:
    """The sequence that attention works on while a layer sees merged tokens.

    Attributes:
        view: how that sequence relates to the fed one.
        member: int64 (B, N), the layer's column that stands at each of its positions, below 0 on padding.
        columns: the layer's columns.
        positions: int64 (C, B, N), rotary positions.
    """

    view: View
    member: Tensor
    columns: int
    positions: Tensor

    @cached_property
    def copies(self) -> Copies:
        """What the cache must know of this fold; layers share it."""
        positions = self.positions.transpose(0, 1).expand(len(self.member), -1, -1)
        turned = torch.zeros_like(self.member, dtype=torch.bool)
        return Copies(self.member, positions, turned)
