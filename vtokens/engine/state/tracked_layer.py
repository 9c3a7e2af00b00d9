"""A cache layer that knows which fed positions its keys stand for, around any layer of transformers'.

Its lengths, where v1 was dropped, v2 and v3 are one merged token, and a sliding window came past t0 (merging and a
window are never met in one layer; the picture has both for short):

    fed position    0   1   2   3   4   5
    fed             t0  v0  v1  v2  v3  t1     6   as the caller counts: `get_seq_length`, position ids, crops
    given           t0  v0      v23     t1     4   keys that the layer was ever given
    seen            t0  v0      v23 v23 t1     5   positions that attention works on: a merged token at each of its own
    gone            t0                         1   those that the window let go of
    present             v0      v23 v23 t1     4   seen - gone: what attention is handed

`KeyMap` has fed, given and seen of the part that strategies changed; behind it all of them grow by one a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

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


def tracked(cache: Cache | None, layer: int) -> TrackedLayer | None:
    """Layer `layer` of `cache` if strategies left something in it."""
    there = cache.layers[layer] if cache is not None and layer < len(cache.layers) else None
    return there if isinstance(there, TrackedLayer) else None


def shortened(cache: Cache | None, layer: int) -> TrackedLayer | None:
    """Layer `layer` of `cache` if it holds fewer keys than positions were fed."""
    there = tracked(cache, layer)
    return there if there is not None and there.keymap.dropped else None


def given_length(cache: Cache | None, layer: int) -> int:
    """Keys that layer `layer` of `cache` was given."""
    if cache is None or layer >= len(cache.layers):
        return 0
    there: Any = cache.layers[layer]
    return there.given if isinstance(there, TrackedLayer) else int(there.get_seq_length())


def held(cache: Cache, layer: int) -> tuple[Tensor, Tensor] | None:
    """(B, H_kv, K, D) each, all keys and values that layer `layer` was given; None if it does not give them back."""
    there: Any = cache.layers[layer]
    length = given_length(cache, layer)
    if there.keys is None or there.keys.dim() != 4 or there.keys.shape[2] < length:  # quantised, or out of a window
        return None
    return there.keys[:, :, :length], there.values[:, :, :length]


def gone_length(cache: Cache | None, layer: int) -> int:
    """Keys that layer `layer` of `cache` was given and a sliding window let go of since."""
    there: Any = cache.layers[layer] if cache is not None and layer < len(cache.layers) else None
    inner = there.inner if isinstance(there, TrackedLayer) else there
    window = getattr(inner, "sliding_window", None)
    return 0 if window is None else max(0, int(inner.get_seq_length()) - window + 1)


def seen_length(cache: Cache | None, layer: int) -> int:
    """Positions that attention over layer `layer` of `cache` sees."""
    there = tracked(cache, layer)
    extra = 0 if there is None else there.keymap.seen - there.keymap.given
    return given_length(cache, layer) + extra


def holds_ours(cache: Cache | None) -> bool:
    """Whether strategies left something in any of its layers."""
    return cache is not None and any(isinstance(layer, TrackedLayer) for layer in cache.layers)


def makes_masks(cache: Cache | None) -> bool:
    """Whether the engine makes masks for some of its layers, whatever mask the decoder is given.

    Over fixed slots it makes them from that mask.
    """
    layers = [] if cache is None else cache.layers
    return any(
        isinstance(layer, TrackedLayer)
        and (layer.negative is not None or (layer.keymap.dropped and layer.keymap.slots is None))
        for layer in layers
    )


def holds_copies(cache: Cache | None) -> bool:
    """Whether merged tokens are in it, which only an attached strategy can unmerge."""
    layers = [] if cache is None else [tracked(cache, index) for index in range(len(cache.layers))]
    return any(layer is not None and layer.keymap.copies is not None for layer in layers)
