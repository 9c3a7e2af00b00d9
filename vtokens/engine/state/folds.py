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

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vtokens.core.layout import Layout
from vtokens.engine.state.copies import Copies
from vtokens.engine.state.view import View


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
