"""What the keys of a cache layer stand for: their positions in the sequence that was fed, and what was noted of them.

Example: six positions were fed, two of them dropped before this layer; then two more tokens came, one key each.

    fed position   0   1   2   3   4   5 | 6   7
    key            k0  k1      k2      k3| k4  k5      at = [0, 1, 3, 5], fed = 6, given = 4
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vtokens.engine.state.folds import Copies
from vtokens.engine.state.padding import join_padding
from vtokens.engine.state.slots import Slots
from vtokens.strategies.views.heads import Memory

SIZE = "log size"
"""What a cache layer notes of each key that counts for several: the logarithm of how many."""


@dataclass(frozen=True, eq=False)
class KeyMap:
    """The part of a cache layer in which keys and fed positions differ; after it they run in step.

    Attributes:
        given: keys the layer was given in this part.
        fed: positions the caller fed in this part, dropped ones included.
        at: int64 (B, seen), or (B, H_kv, seen) where heads hold different keys, the fed position of each key that
            attention sees; arbitrary on padding. None if nothing was dropped, so that key i stands at position i.
        valid: bool (B, seen), False on padding; None if there is none.
        tail: trailing positions that have a key each and may be cropped again (speculative decoding).
        origin: equal for layers whose keys were kept together, so that they share masks.
        memory: what `attend` strategies noted at the layer.
        copies: how the stored keys stand in the sequence that attention sees; None if they are that sequence.
        shut: bool (B, H_kv, seen), keys that a head does not attend to, where heads hold different numbers of them;
            None elsewhere.
        slots: what the slots stand for, where they are fixed and something was dropped; None elsewhere.
    """

    given: int
    fed: int
    at: Tensor | None
    valid: Tensor | None
    tail: int
    origin: Hashable = field(default_factory=object)
    memory: Memory = field(default_factory=Memory)
    copies: Copies | None = None
    slots: Slots | None = None
    shut: Tensor | None = None

    @staticmethod
    def plain(given: int, memory: Memory | None = None, tail: int | None = None) -> KeyMap:
        """That of a layer which holds all it was fed, and can be cropped as a whole if no `tail` is given."""
        tail = given if tail is None else tail
        return KeyMap(given, given, None, None, tail, "plain", Memory() if memory is None else memory)

    @property
    def dropped(self) -> bool:
        """Whether some fed position has no key."""
        # In this order: compiled steps depend on what they look at.
        return self.slots is not None or self.at is not None

    @property
    def seen(self) -> int:
        """Positions that attention sees."""
        return self.given if self.copies is None else self.copies.length

    def positions(self, upto: int, device: torch.device) -> Tensor:
        """int64 (B or 1, K), or (B, H_kv, K) as `at`: the fed position of each key, once `upto` positions were fed."""
        tail = torch.arange(self.fed, upto, device=device)[None]
        if self.at is None:
            return torch.arange(upto, device=device)[None]
        return torch.cat([self.at.to(device), tail.expand(*self.at.shape[:-1], -1)], -1)

    def shut_after(self, length: int) -> Tensor | None:
        """`shut` over `length` keys, of which the later ones are open to all heads."""
        if self.shut is None:
            return None
        return torch.nn.functional.pad(self.shut, (0, length - self.shut.shape[-1]))

    def padding(self, fed_mask: Tensor | None, upto: int) -> Tensor | None:
        """bool (B, K): which of the keys that attention sees may be attended to; None if all may.

        Args:
            fed_mask: bool (B, >= upto), padding mask over fed positions, or None.
            upto: fed positions cached before the current call.
        """
        after = None if fed_mask is None else fed_mask[:, self.fed : upto]
        return self.valid if upto == self.fed else join_padding(self.valid, after, self.seen, upto - self.fed)

    def map(self, change: Callable[[Tensor], Tensor]) -> KeyMap:
        """The key map of other samples; `change` acts on the batch dimension."""
        at, valid = (None if part is None else change(part) for part in (self.at, self.valid))
        copies = None if self.copies is None else self.copies.map(change)
        slots = None if self.slots is None else self.slots.map(change)
        shut = None if self.shut is None else change(self.shut)
        memory = self.memory.map(change)
        return replace(self, at=at, valid=valid, memory=memory, copies=copies, slots=slots, shut=shut)

    def cropped(self, positions: int) -> KeyMap:
        """Without its last `positions`."""
        at, valid, shut = (
            None if part is None else part[..., :-positions] for part in (self.at, self.valid, self.shut)
        )
        return replace(
            self, given=self.given - positions, fed=self.fed - positions, at=at, valid=valid, shut=shut,
            memory=self.memory.cropped(self.seen - positions),
            tail=self.tail - positions, origin=(self.origin, -positions) if self.dropped else self.origin,
            copies=None if self.copies is None else self.copies.cropped(positions),
        )  # fmt: skip
