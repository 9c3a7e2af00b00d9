"""A cache layer that knows which fed positions its keys stand for, around any layer of transformers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vtokens.engine.context import here
from vtokens.engine.state.keymap import SIZE, KeyMap
from vtokens.engine.state.negative_keys import NegativeKeys
from vtokens.engine.state.numbering import CLOSED
from vtokens.engine.state.slots import mask_at, places
from vtokens.engine.state.wrapped_layer import WrappedLayer


class TrackedLayer(WrappedLayer):
    """A cache layer that holds fewer keys than positions were fed, or notes about them.

    `get_seq_length` keeps counting fed positions, so that `generate`, position ids, cropping and multi-turn chat go on
    as without strategies; the keys and values of the inner layer really are short. What is known of them moves along
    when beams are reordered, and so does the negative prompt that may stand beside.

    Attributes:
        inner: the layer of transformers' that stores keys and values.
        keymap: which fed positions they stand for.
        negative: keys and values of the negative prompt of a contrast; None if there is none.
        room: positions that may be fed, where the inner layer's slots are fixed; None where it grows.
    """

    def __init__(self, inner: Any, keymap: KeyMap, room: int | None = None) -> None:
        super().__init__(inner, room)
        self.keymap = keymap
        self.negative: NegativeKeys | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        # A layer does not know whose it is: an engine whose call is under way in this thread may see to this cache.
        # Compiled steps are not to look at what is under way.
        if not torch.compiler.is_compiling() and not here().phases and self._asks_for_engine(key_states.shape[2]):
            raise RuntimeError(
                "this cache was filled under a strategy that is no longer attached, and without it the keys that it "
                "holds cannot be told from those that were fed: attach the strategy again, or start with an empty cache"
            )
        return super().update(key_states, value_states, *args, **kwargs)

    def _asks_for_engine(self, queries: int) -> bool:
        """Whether attention without the engine would fail, or be wrong; one token sees all keys in any case."""
        keymap = self.keymap
        changed = any(part is not None for part in (keymap.copies, keymap.shut, keymap.slots))
        noted = CLOSED in keymap.memory.samples or SIZE in keymap.memory.keys
        return changed or noted or (keymap.dropped and (queries > 1 or keymap.valid is not None))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        # The engine makes the masks of tracked layers, those over fixed slots from that over fed positions. Of these
        # there are never twice as many as slots and dropped positions together, whatever was kept.
        if self.room is not None:
            return (2 if self.keymap.dropped else 1) * self.room, 0
        if self.keymap.dropped:
            return self.get_seq_length() + query_length, 0
        return super().get_mask_sizes(query_length)

    @property
    def makes_mask(self) -> bool:
        """Whether the engine makes its mask whatever mask the decoder is given; over fixed slots it cuts that one."""
        return self.negative is not None or (self.keymap.dropped and self.keymap.slots is None)

    def mask(self, fed: Tensor | None) -> Tensor | None:
        """(B, 1, W, K), which keys each new query sees, from the mask (B or 1, 1, W, F) over fed positions.

        Args:
            fed: as transformers makes it; None, for a single query alone, if it sees them all.
        """
        keymap = self.keymap
        if keymap.slots is not None and fed is not None:
            return mask_at(keymap.slots.at, fed)
        if keymap.at is None or (fed is None and keymap.valid is None):
            return fed
        size = self.given + (1 if fed is None else fed.shape[2])
        at = places(keymap.at, keymap.valid, keymap.fed, size)
        return (at >= 0)[:, None, None] if fed is None else mask_at(at, fed)

    @property
    def given(self) -> int:
        """Keys that the inner layer was ever given, those it let go of since included."""
        return int(self.inner.get_seq_length())

    def get_seq_length(self) -> int:
        """Positions fed so far, as the caller counts them; on the device where slots are fixed."""
        if not self.is_initialized:
            return 0
        given, slots = self.inner.get_seq_length(), self.keymap.slots
        fed: int = given + (self.keymap.fed - self.keymap.given if slots is None else slots.ahead)
        return fed

    def crop(self, tokens_to_remove: int) -> None:
        """Remove `-tokens_to_remove` positions from the end; a positive number is the length to crop to.

        Raises:
            ValueError: that would cut into the pruned part.
        """
        if tokens_to_remove > 0:
            tokens_to_remove = min(0, tokens_to_remove - self.get_seq_length())
        keymap, remove = self.keymap, -tokens_to_remove
        behind = self.given - keymap.given
        if remove - behind > keymap.tail:
            raise ValueError(
                f"cannot crop {remove} positions: only the last {behind + keymap.tail} come after the pruned visual "
                "tokens, and those that a strategy noted something about. Start again with an empty cache, or detach() "
                "the strategy first"
            )
        if self.negative is not None and remove:
            self.negative.check_crop(remove, self.get_seq_length())
            self.negative = self.negative.cropped(remove, self.get_seq_length())
        self.inner.crop(tokens_to_remove)
        if remove > behind:
            self.keymap = keymap.cropped(remove - behind)

    def _map(self, change: Callable[[Tensor], Tensor], layer: Callable[[Any], None]) -> None:
        self.keymap = self.keymap.map(change)
        if self.negative is not None:
            self.negative = self.negative.map(change, layer)

    def reset(self) -> None:
        self.inner = self._emptied()
        self.negative, self.keymap = None, KeyMap.plain(0)
