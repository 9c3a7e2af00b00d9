"""The negative branch of a sequence, kept in the cache beside it, so that it follows beams, crops and copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


@dataclass(frozen=True)
class Start:
    """Where the two sequences stood when last they were fed different things; from there on both get the same tokens.

    Attributes:
        fed: positions of the sequence.
        length: positions of the branch.
        valid: bool (B, length), False on the branch's padding; None if it has none.
        shift: int64 (B,), by how much its rotary positions lag behind.
        seen: bool (B,), samples that have pictures, the others being left alone; None if all have.
        tail: trailing positions that both have, and that may be cropped.
        answer: the fed position whose logits predict the first token of the answer.
    """

    fed: int
    length: int
    valid: Tensor | None
    shift: Tensor
    seen: Tensor | None
    tail: int
    answer: int

    def map(self, change: Callable[[Tensor], Tensor]) -> Start:
        """The same for other samples; `change` acts on the batch dimension."""
        valid, seen = (None if part is None else change(part) for part in (self.valid, self.seen))
        return replace(self, valid=valid, seen=seen, shift=change(self.shift))

    def cropped(self, positions: int) -> Start:
        """Without the last `positions` of both."""
        valid = None if self.valid is None else self.valid[:, :-positions]
        return replace(
            self, fed=self.fed - positions, length=self.length - positions, valid=valid, tail=self.tail - positions
        )

    def mask(self, fed_mask: Tensor | None, total: int) -> Tensor | None:
        """bool (B, ...), the branch's padding once `total` positions of the sequence are fed; None if there is none.

        Args:
            fed_mask: bool (B, total), the sequence's own; None if nothing of it is padding.
            total: positions of the sequence.
        """
        if self.valid is None and fed_mask is None:
            return None
        device, batch = self.shift.device, len(self.shift)
        before = self.valid
        if before is None:
            before = torch.ones(batch, self.length, dtype=torch.bool, device=device)
        if fed_mask is None:
            after = torch.ones(batch, total - self.fed, dtype=torch.bool, device=device)
        else:
            after = fed_mask[:, self.fed :].to(before.device)
        return torch.cat([before, after], 1)


@dataclass
class Beside:
    """What a cache layer holds of the branch.

    Attributes:
        layer: its keys and values.
        start: where it parted; in the first layer only, which speaks for all.
    """

    layer: DynamicLayer
    start: Start | None = None

    def check_crop(self, remove: int, fed: int) -> None:
        """Raise `ValueError` if the last `remove` of `fed` positions are not the same in both."""
        if self.start is not None and remove > fed - self.start.fed + self.start.tail:
            raise ValueError(
                f"cannot crop {remove} positions: only the last {fed - self.start.fed + self.start.tail} are those of "
                "the negative branch too, which sees the pictures otherwise. Start again with an empty cache, or "
                "detach() the strategy first"
            )

    def crop(self, remove: int, fed: int) -> None:
        """Remove the last `remove` of `fed` positions."""
        self.layer.crop(-remove)
        if self.start is not None and remove > fed - self.start.fed:
            self.start = self.start.cropped(remove - (fed - self.start.fed))

    def map(self, change: Callable[[Tensor], Tensor], layer: Callable[[DynamicLayer], None]) -> None:
        """Go to other samples; `change` acts on the batch dimension, `layer` on a cache layer."""
        layer(self.layer)
        if self.start is not None:
            self.start = self.start.map(change)


class Joint(Cache):
    """A cache for one pass over both: rows of the sequence first, those of the branch after them.

    `update` stores each half where it belongs and returns nothing of use, since the two differ in length: attention
    reads them from `halves`.
    """

    def __init__(self, real: Cache, branch: Cache) -> None:
        super().__init__(layers=[])
        self.real, self.branch = real, branch
        self.halves: tuple[tuple[Tensor, Tensor], ...] = ()

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        half = len(key_states) // 2
        self.halves = (
            self.real.update(key_states[:half], value_states[:half], layer_idx),
            self.branch.update(key_states[half:], value_states[half:], layer_idx),
        )
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.real.get_seq_length(layer_idx)


def branch_cache(cache: Any) -> DynamicCache | None:
    """The branch of what `cache` holds, sharing its layers; None if there is none."""
    if start_of(cache) is None:
        return None
    found = DynamicCache()
    found.layers = [layer.beside.layer for layer in cache.layers]
    return found


def start_of(cache: Any) -> Start | None:
    """Where the branch of what `cache` holds parted; None if there is none."""
    beside: Beside | None = getattr(cache.layers[0], "beside", None) if cache is not None and cache.layers else None
    return None if beside is None else beside.start
