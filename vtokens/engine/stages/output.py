"""The end of a pass: cache layers are told what their keys stand for, and states come back at the length fed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vtokens.engine.attention.fold import copies_after
from vtokens.engine.attention.key_padding import cached_padding, slots_seen
from vtokens.engine.attention.masks import query_key_positions
from vtokens.engine.state.cache_layers import (
    first_keys,
    holds_keys,
    kept_with_keys,
    lengths,
    memory_of,
    shortened,
    track,
    tracked,
    tracked_layers,
)
from vtokens.engine.state.folds import Fold
from vtokens.engine.state.keymap import KeyMap
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.padding import join_padding
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.signals import Signals
from vtokens.engine.state.slots import Slots, places
from vtokens.engine.state.view import View, expand
from vtokens.strategies.views.heads import Memory


def report(lane: Lane, pictures: Pictures) -> None:
    """Note in the record of a pass what its layers saw."""
    record = pictures.record
    record.views = lane.views
    record.attended = {index: fold.member.shape[1] for index, fold in lane.folds.items()}
    record.copies = Signals(lane, pictures, None).copies()


def note_keymaps(lane: Lane, pictures: Pictures, cache: Any) -> None:
    """Tell the cache layers that stored less than was fed, or about which strategies noted something."""
    lane.cache = cache
    notes = kept_with_keys(cache, lane.notes)
    for index in sorted({*(index for index in lane.views if holds_keys(cache, index)), *notes}):
        view = lane.views.get(index)
        new = lane.length if view is None else view.index.shape[1]
        (given, seen, _), fold = lengths(cache, index), lane.folds.get(index)
        past, length = seen - new, new if fold is None else fold.member.shape[1]
        memory = memory_of(cache, index).followed_by(notes.get(index, Memory()), past, length)
        if view is None and shortened(cache, index) is None:
            # Nothing was dropped here, so all of it may be cropped again, but for notes about whole pictures.
            keymap = KeyMap.plain(given, memory, pictures.layout.tail if memory.samples else None)
        else:
            keymap = _keymap(lane, pictures, index, new, past, length, memory)
        track(cache, index, keymap)
    limit_crops(cache)


def limit_crops(cache: Any) -> None:
    """Let the first layer refuse what any layer would: layers are cropped one by one, and all of them or none is to be.

    No layer was given anything yet behind what its key map is of.
    """
    number = first_keys(cache)
    tails, first = [layer.keymap.tail for layer in tracked_layers(cache)], tracked(cache, number)
    tail = lengths(cache, number).given if first is None else first.keymap.tail
    if min(tails, default=tail) >= tail:
        return
    first = track(cache, number)
    first.keymap = replace(first.keymap, tail=min(tails))


def remember(lane: Lane, cache: Any) -> None:
    """Keep in the cache what strategies noted in a pass without pictures."""
    for index, noted in kept_with_keys(cache, lane.notes).items() if cache is not None else ():
        layer, past = track(cache, index), lengths(cache, index).seen - lane.length
        layer.keymap = replace(layer.keymap, memory=layer.keymap.memory.followed_by(noted, past, lane.length))


def _keymap(lane: Lane, pictures: Pictures, index: int, new: int, past: int, length: int, memory: Memory) -> KeyMap:
    """What the keys of a shortened layer stand for, after `new` of them were stored behind `past` that are seen."""
    fold, layer = lane.folds.get(index), shortened(lane.cache, index)
    view = lane.views.get(index) if fold is None else fold.view
    given, device = lengths(lane.cache, index).given, pictures.layout.visual.device

    def make() -> tuple[Tensor, Tensor | None, object]:
        valid = join_padding(cached_padding(lane, index), lane.fed_now(view), past, length)
        _, at = query_key_positions(lane, index, past, length, view, device)
        return at.expand(len(pictures.layout.visual), *at.shape[1:]), valid, object()

    # Layers whose keys were dropped together share all of this.
    key = ("keymap", None if layer is None else layer.keymap.origin, view, past)
    at, valid, origin = lane.once(key, make)
    copies, slots, size = copies_after(lane, index, new, valid), None, slots_seen(lane, index)
    fed, tail = lane.past + lane.length, pictures.layout.tail
    if size is not None:
        ahead = torch.tensor(fed - at.shape[1], device=at.device)
        slots = lane.once(("slots", key, size), lambda: Slots(places(at, valid, fed, size), ahead))
    shut = None if layer is None else layer.keymap.shut_after(given)
    return KeyMap(given, fed, at, valid, tail, origin, memory, copies, slots, shut)


def restore(lane: Lane, output: Any) -> Any:
    """The language model's output with all hidden states at the length that was fed."""
    depth = len(lane.adapter.layers)
    # Entry 0 is the input of the first layer, entry i the output of layer i - 1.
    views = [lane.entry, *(lane.views.get(index) for index in range(depth))]
    folds = [lane.folds.get(0), *(lane.folds.get(index) for index in range(depth))]
    last = _full(lane, output[0], lane.view, folds[-1])

    def full(states: Any) -> Any:
        return tuple(_full(lane, *parts) for parts in zip(states, views, folds, strict=True))

    if isinstance(output, tuple):  # return_dict=False; nothing but hidden states comes as a tuple
        return (last, *(full(part) if isinstance(part, tuple) else part for part in output[1:]))
    output.last_hidden_state = last
    if output.get("hidden_states") is not None:
        output.hidden_states = full(output.hidden_states)
    return output


def _full(lane: Lane, state: Tensor, view: View | None, fold: Fold | None) -> Tensor:
    """States (B, W, D) at the length that was fed; merged tokens stand at all of their positions."""
    if view is None:
        return state
    copies = None if fold is None else (fold.view.index, fold.member)
    return expand(state, view, lane.length, copies)
