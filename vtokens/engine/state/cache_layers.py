"""What is known of the layers of a cache, whether strategies left something in them or not.

The lengths of a layer, where v1 was dropped, v2 and v3 are one merged token, and a sliding window came past t0 (merging
and a window are never met in one layer; the picture has both for short):

    fed position    0   1   2   3   4   5
    fed             t0  v0  v1  v2  v3  t1     6   as the caller counts: `get_seq_length`, position ids, crops
    given           t0  v0      v23     t1     4   keys that the layer was ever given
    seen            t0  v0      v23 v23 t1     5   positions that attention works on: a merged token at each of its own
    gone            t0                         1   those that the window let go of
    present             v0      v23 v23 t1     4   seen - gone: what attention is handed

`KeyMap` has fed, given and seen of the part that strategies changed; behind it all of them grow by one a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from transformers import cache_utils
from transformers.cache_utils import Cache

from vtokens.engine.state.keymap import KeyMap
from vtokens.engine.state.tracked_layer import TrackedLayer
from vtokens.strategies.views.memory import Memory

_KEYLESS = tuple(getattr(cache_utils, name, None) for name in ("LinearAttentionLayer", "DummyLayer"))
"""Cache layers that hold a state of fixed size in place of keys, or nothing; older releases have none."""


class Lengths(NamedTuple):
    """How long a cache layer is, by what is counted: see above."""

    given: int
    seen: int
    gone: int

    @property
    def present(self) -> int:
        """Positions that attention is handed."""
        return self.seen - self.gone


def holds_keys(cache: Cache | None, index: int) -> bool:
    """Whether layer `index` of a cache holds keys, or will; one that holds a state, or nothing, knows none."""
    return cache is None or index >= len(cache.layers) or type(cache.layers[index]) not in _KEYLESS


def first_keys(cache: Cache | None) -> int:
    """The first layer of a cache that holds keys: what concerns all of them is noted there."""
    return next((index for index in range(len(cache.layers) if cache else 0) if holds_keys(cache, index)), 0)


def lengths(cache: Cache | None, index: int) -> Lengths:
    """The lengths of layer `index` of a cache; 0 where nothing was stored."""
    if cache is None or index >= len(cache.layers) or not holds_keys(cache, index):
        return Lengths(0, 0, 0)
    layer: Any = cache.layers[index]
    inner, merged = layer, 0
    if type(layer) is TrackedLayer:  # isinstance asks an abstract class, in Python
        inner, merged = layer.inner, layer.keymap.seen - layer.keymap.given
    given, window = int(inner.get_seq_length()), getattr(inner, "sliding_window", None)
    return Lengths(given, given + merged, 0 if window is None else max(0, given - window + 1))


def tracked(cache: Cache | None, index: int) -> TrackedLayer | None:
    """Layer `index` of a cache if strategies left something in it."""
    there = cache.layers[index] if cache is not None and index < len(cache.layers) else None
    return there if type(there) is TrackedLayer else None


def tracked_layers(cache: Cache | None) -> list[TrackedLayer]:
    """The layers of a cache that strategies left something in."""
    return [] if cache is None else [layer for layer in cache.layers if type(layer) is TrackedLayer]


def shortened(cache: Cache | None, index: int) -> TrackedLayer | None:
    """Layer `index` of a cache if it holds fewer keys than positions were fed."""
    there = tracked(cache, index)
    return there if there is not None and there.keymap.dropped else None


def memory_of(cache: Cache | None, index: int) -> Memory:
    """What strategies noted at layer `index` of a cache."""
    there = tracked(cache, index)
    if there is not None or holds_keys(cache, index):
        return Memory() if there is None else there.keymap.memory
    first, mark = tracked(cache, first_keys(cache)), f"{index}: "
    noted = {} if first is None else first.keymap.memory.samples
    return Memory(samples={name.removeprefix(mark): part for name, part in noted.items() if name.startswith(mark)})


def kept_with_keys(cache: Cache | None, notes: Mapping[int, Memory]) -> dict[int, Memory]:
    """The notes of layers without keys move to the first layer with keys, under names that begin with their layer.

    Layers without keys (linear attention) hold one state a sample: they note things of samples, never of keys.
    """
    found = {index: noted for index, noted in notes.items() if holds_keys(cache, index)}
    for index, noted in notes.items():
        if index not in found:
            first = found.setdefault(first_keys(cache), Memory())
            samples = {f"{index}: {name}": part for name, part in noted.samples.items()}
            found[first_keys(cache)] = Memory(first.keys, {**first.samples, **samples})
    return found


def track(cache: Cache, index: int, keymap: KeyMap | None = None) -> TrackedLayer:
    """Layer `index` of a cache, tracked from now on; with a key map, if one is given, in place of what it had."""
    there: Any = cache.layers[index]
    if not isinstance(there, TrackedLayer):
        there = cache.layers[index] = TrackedLayer(there, keymap or KeyMap.plain(int(there.get_seq_length())))
    elif keymap is not None:
        there.keymap = keymap
    return there


def all_keys(cache: Cache, index: int) -> tuple[Tensor, Tensor] | None:
    """(B, H_kv, K, D) each, all keys and values that layer `index` was given; None if it does not give them back."""
    layer: Any = cache.layers[index]
    length = lengths(cache, index).given
    if layer.keys is None or layer.keys.dim() != 4 or layer.keys.shape[2] < length:  # quantised, or out of a window
        return None
    return layer.keys[:, :, :length], layer.values[:, :, :length]
