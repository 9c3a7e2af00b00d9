"""A cache layer that knows which fed positions its keys stand for, around any layer of transformers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from vtokens.engine.state.keymap import KeyMap
from vtokens.engine.state.negative_keys import NegativeKeys
from vtokens.engine.state.slots import mask_at, places


class TrackedLayer(CacheLayerMixin):
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
        self.inner, self.keymap = inner, keymap
        self.negative: NegativeKeys | None = None
        self.room: int | None = getattr(inner, "max_cache_len", None) if room is None else room

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # asked for before it is set, while a copy is being made
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def keys(self) -> Any:  # type: ignore[override]  # attributes there
        """(B, H_kv, K, D), those of the inner layer."""
        return self.inner.keys

    @property
    def values(self) -> Any:  # type: ignore[override]
        """(B, H_kv, K, D), those of the inner layer."""
        return self.inner.values

    @property
    def is_initialized(self) -> bool:  # type: ignore[override]
        """Whether anything was stored."""
        return bool(self.inner.is_initialized)

    @property
    def is_compileable(self) -> bool:  # type: ignore[override]  # a class attribute there
        return bool(self.inner.is_compileable)

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        return bool(self.inner.is_croppable)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.inner.lazy_initialization(key_states, value_states)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.inner.update(key_states, value_states, *args, **kwargs)
        return found

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        # The engine makes the masks of tracked layers, those over fixed slots from that over fed positions. Of these
        # there are never twice as many as slots and dropped positions together, whatever was kept.
        if self.room is not None:
            return (2 if self.keymap.dropped else 1) * self.room, 0
        if self.keymap.dropped:
            return self.get_seq_length() + query_length, 0
        sizes: tuple[int, int] = self.inner.get_mask_sizes(query_length)
        return sizes

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

    def get_max_length(self) -> int:
        return int(self.inner.get_max_length()) if self.room is None else self.room

    def offload(self) -> None:
        self.inner.offload()

    def prefetch(self) -> None:
        self.inner.prefetch()

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

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.inner.batch_repeat_interleave(repeats)
        self._map(lambda part: part.repeat_interleave(repeats, dim=0), lambda x: x.batch_repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        self.inner.batch_select_indices(indices)
        self._map(lambda part: part[indices.to(part.device)], lambda x: x.batch_select_indices(indices))

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.inner.reorder_cache(beam_idx)
        self._map(lambda part: part.index_select(0, beam_idx.to(part.device)), lambda x: x.reorder_cache(beam_idx))

    def _map(self, change: Callable[[Tensor], Tensor], layer: Callable[[Any], None]) -> None:
        self.keymap = self.keymap.map(change)
        if self.negative is not None:
            self.negative = self.negative.map(change, layer)

    def reset(self) -> None:
        if self.room is not None and self.inner.max_cache_len != self.room:
            self.inner = type(self.inner)(max_cache_len=self.room)  # the next prompt may be kept whole
        self.inner.reset()
        # Older releases of transformers only zero the states, which would then count as fed.
        if not hasattr(self.inner, "max_cache_len"):
            self.inner.keys = self.inner.values = None
            self.inner.is_initialized = False
        self.negative, self.keymap = None, KeyMap.plain(0)
