"""Sequences that leave a cache, and others that join it: what `generate` keeps for them, row by row.

Rows of two caches, one of which dropped v1 (`.` is padding, in front as everywhere):

    t0  v0  v1  t1      at 0 1 2 3        joined:   t0  v0  v1  t1      at 0 1 2 3
        t0  v0  t1      at 0 1 3                    .   t0  v0  t1      at . 0 1 3

Positions are those of the sequence that was fed, padding included, as the engine counts them (`KeyMap.at`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from vtokens.engine.state.keymap import KeyMap
from vtokens.engine.state.numbering import CLOSED
from vtokens.engine.state.roomy import RoomyLayer
from vtokens.engine.state.tracked_layer import TrackedLayer
from vtokens.strategies.views.memory import Memory

_GROWING = (DynamicLayer, RoomyLayer)


@dataclass(frozen=True)
class _Layer:
    """A cache layer, row by row.

    Attributes:
        keys, values: (B, H_kv, K, D).
        at: int64 (B, K), the fed position of each key; None where key i stands at position i.
        valid: bool (B, K), False on padding; None where `at` is, or where there is none.
        closed: int64 (B,), by how much later tokens are numbered lower; None if they are not.
        origin: equal for layers that share `at` and `valid`.
    """

    keys: Tensor
    values: Tensor
    at: Tensor | None
    valid: Tensor | None
    closed: Tensor | None
    origin: Hashable


def splits(cache: Any) -> bool:
    """Whether a cache can be taken apart into rows: layers that grow, and nothing noted of their keys."""
    return type(cache) is DynamicCache and all(map(_splits, cache.layers))


def _splits(layer: Any) -> bool:
    if type(layer) is not TrackedLayer:
        return type(layer) in _GROWING
    keymap, negative = layer.keymap, layer.negative
    special = keymap.copies is not None or keymap.slots is not None or keymap.shut is not None or negative is not None
    memory = keymap.memory
    noted = bool(memory.keys) or {*memory.samples} - {CLOSED}
    flat = keymap.at is None or keymap.at.dim() == 2
    return type(layer.inner) in _GROWING and not special and not noted and flat


def with_room(cache: Any) -> None:
    """Let the layers of a cache that `splits` grow without being copied for each token."""
    for index, layer in enumerate(cache.layers):
        inner: Any = layer.inner if type(layer) is TrackedLayer else layer
        if type(inner) is DynamicLayer and inner.is_initialized:
            keys, values = inner.keys, inner.values
            if keys is None or values is None:
                continue
            roomy = RoomyLayer(keys, values)
            if type(layer) is TrackedLayer:
                layer.inner = roomy
            else:
                cache.layers[index] = roomy


def chosen_rows(cache: Any, mask: Tensor, rows: Sequence[int]) -> tuple[Tensor, int]:
    """Leave only some rows in a cache, without the padding that none of them needs.

    Args:
        cache: one that `splits`; it is changed.
        mask: int64 (B, F), 0 on padding of the positions that were fed, and of the next one.
        rows: those that stay.

    Returns:
        Their mask (R, F'), and how many positions of padding are gone from its front.
    """
    index = torch.tensor(rows, device=mask.device)
    fed = mask.shape[1] - 1
    kept = mask[index]
    gone = min(int(kept.argmax(1).min()), fed)

    known: dict[Hashable, tuple[Tensor, Tensor | None, int]] = {}

    def cut(layer: _Layer) -> _Layer:
        own = index.to(layer.keys.device)
        at, valid, front = None, None, gone
        if layer.at is not None:
            if layer.origin not in known:
                known[layer.origin] = _front(layer.at[index] - gone, layer.valid, index)
            at, valid, front = known[layer.origin]
        keys, values = (part[own][:, :, front:] for part in (layer.keys, layer.values))
        return _Layer(keys, values, at, valid, None if layer.closed is None else layer.closed[own], layer.origin)

    layers = [cut(layer) for layer in _read(cache, mask)]
    _write(cache, layers, fed - gone)
    return kept[:, gone:], gone


def _front(at: Tensor, valid: Tensor | None, rows: Tensor) -> tuple[Tensor, Tensor | None, int]:
    """Positions and padding of some rows, without what is padding in all of them, and how many keys that is."""
    if valid is None:
        return at, None, 0
    valid = valid[rows]
    front = min(int(valid.long().argmax(1).min()), valid.shape[1] - 1)
    return at[:, front:].clamp(min=0), valid[:, front:], front


def joined(cache: Any, mask: Tensor, other: Any, other_mask: Tensor) -> Tensor:
    """Put the rows of another cache behind those of a cache.

    Args:
        cache: one that `splits`; it is changed.
        mask: int64 (B, F), 0 on padding of the positions that were fed, and of the next one.
        other, other_mask: of the rows that join, which have other lengths; both of which `splits`.

    Returns:
        The mask of all, padded on the left.
    """
    most = max(mask.shape[1], other_mask.shape[1])
    pairs = zip(_read(cache, mask), _read(other, other_mask), strict=True)
    masks = [pad(one, (most - one.shape[1], 0)) for one in (mask, other_mask)]
    shifts = most - mask.shape[1], most - other_mask.shape[1]
    known: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def both(one: _Layer, two: _Layer) -> _Layer:
        if one.at is None and two.at is None:
            size, at, valid = most - 1, None, None
        else:
            size = max(
                part.keys.shape[2] + (shift if part.at is None else 0)
                for part, shift in zip((one, two), shifts, strict=True)
            )
            key = one.origin, two.origin, size
            if key not in known:
                parts = [
                    _places(part, shift, own, size) for part, shift, own in zip((one, two), shifts, masks, strict=True)
                ]
                known[key] = torch.cat([at for at, _ in parts]), torch.cat([valid for _, valid in parts])
            at, valid = known[key]
        keys, values = (
            torch.cat([_left(part, size) for part in parts])
            for parts in ((one.keys, two.keys), (one.values, two.values))
        )
        return _Layer(keys, values, at, valid, _closed(one, two), (one.origin, two.origin))

    _write(cache, [both(one, two) for one, two in pairs], most - 1)
    return torch.cat(masks)


def _left(part: Tensor, size: int) -> Tensor:
    """Keys with zeros in front, which are padding."""
    return pad(part, (0, 0, size - part.shape[2], 0))


def _places(layer: _Layer, shift: int, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """int64 and bool (B, size): where the keys of a layer stand once `shift` positions came in front, and which are
    real."""
    if layer.at is None:  # key i stands at position i, behind as much padding as came in front of the positions
        fed = mask[:, :-1].bool()  # the next token has no key yet
        return torch.arange(size, device=mask.device).expand(len(mask), -1), fed
    valid = torch.ones_like(layer.at, dtype=torch.bool) if layer.valid is None else layer.valid
    more = (size - valid.shape[1], 0)
    return pad(layer.at + shift, more), pad(valid, more)


def _closed(one: _Layer, two: _Layer) -> Tensor | None:
    if one.closed is None and two.closed is None:
        return None
    found = [part.closed for part in (one, two)]
    there = next(part for part in found if part is not None)
    sizes = [len(part.keys) for part in (one, two)]
    return torch.cat([
        there.new_zeros(size) if part is None else part for part, size in zip(found, sizes, strict=True)
    ])  # fmt: skip


def _read(cache: Any, mask: Tensor) -> list[_Layer]:
    fed, known = mask.shape[1] - 1, dict[Hashable, tuple[Tensor, Tensor | None]]()

    def read(layer: Any) -> _Layer:
        if type(layer) is not TrackedLayer:
            return _Layer(layer.keys, layer.values, None, None, None, "plain")
        keymap = layer.keymap
        closed = keymap.memory.samples.get(CLOSED)
        if not keymap.dropped:
            return _Layer(layer.keys, layer.values, None, None, closed, "plain")
        key = keymap.origin, keymap.given, keymap.fed
        if key not in known:
            at = keymap.positions(fed, mask.device).expand(len(mask), -1)
            known[key] = at, keymap.padding(mask[:, :fed].bool(), fed)
        return _Layer(layer.keys, layer.values, *known[key], closed, key)

    return [read(layer) for layer in cache.layers]


def _write(cache: Any, layers: Sequence[_Layer], fed: int) -> None:
    shared: dict[Hashable, tuple[Tensor, Tensor | None, object]] = {}
    for index, layer in enumerate(layers):
        inner = RoomyLayer(layer.keys, layer.values)
        memory = Memory(samples={} if layer.closed is None else {CLOSED: layer.closed})
        if layer.at is not None:
            at, valid, origin = shared.setdefault(layer.origin, (layer.at, layer.valid, object()))
            keymap = KeyMap(layer.keys.shape[2], fed, at, valid, 0, origin, memory)
            cache.layers[index] = TrackedLayer(inner, keymap)
        elif layer.closed is not None:
            cache.layers[index] = TrackedLayer(inner, KeyMap.plain(fed, memory, 0))
        else:
            cache.layers[index] = inner
