"""The `cache` stage: strategies drop keys that a pass has cached, for all heads or for each its own.

A picture: head 0 keeps v0, head 1 keeps v1. What a head holds less than another is padded on the left.

    cached     t0  v0  v1  t1
    head 0     t0  v0  t1          at = [[0, 1, 3],
    head 1     t0  v1  t1                [0, 2, 3]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vtokens.core.columns import columns_of
from vtokens.engine.attention.by_program import of_rows
from vtokens.engine.attention.key_padding import seen_padding
from vtokens.engine.attention.tap import AttentionCall
from vtokens.engine.stages.output import limit_crops
from vtokens.engine.state.cache_layers import memory_of, track
from vtokens.engine.state.keymap import KeyMap
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.tracked_layer import TrackedLayer
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.heads import VISUAL, Memory
from vtokens.strategies.views.keys import Keys


def decide(lane: Lane, index: int, attention: AttentionCall) -> None:
    """Ask which keys of decoder layer `index` stay, once its attention has run; they are dropped when the pass ends."""
    total, length = attention.key.shape[2], attention.query.shape[2]
    pictures = lane.pictures if lane.shows else None
    memory, device = memory_of(lane.cache, index), attention.key.device
    valid = seen_padding(lane, index, total - length, length, lane.view, device)
    if VISUAL in memory.keys:
        visual = memory.marks(VISUAL, total).bool()
    else:
        visual = torch.zeros(len(attention.key), total, dtype=torch.bool, device=device)
    layout = None
    if pictures is not None:
        layout = lane.layout_on(device)
        visual = torch.cat([visual[:, : total - length], layout.visual], 1)
        lane.notes.setdefault(index, Memory()).keys[VISUAL] = (layout.visual, 0)
    whole = Keys(
        index, attention.query, attention.key, attention.value, attention.scaling, visual, valid,
        layout,
    )  # fmt: skip
    for acting in lane.plan.at_cache[index]:
        rows = lane.batch_rows(acting.rows)
        part = replace(whole if rows is None else of_rows(whole, rows), prepared=acting.prepared, metrics={})
        selection = acting.strategy.at_cache(part)
        lane.log(acting.strategy, part.metrics)
        if selection is not None:
            _check(selection, part, acting.strategy.name)
            lane.evicted[index] = _joined(lane.evicted.get(index), selection, rows, whole)


def _check(selection: Selection, keys: Keys, name: str) -> None:
    batch, heads, length = keys.key.shape[:3]
    if selection.keep.shape not in ((batch, length), (batch, heads, length)):
        raise ValueError(
            f"{name!r} keeps {tuple(selection.keep.shape)}: {(batch, length)} is allowed, for all heads, or "
            f"{(batch, heads, length)} for each key and value head"
        )
    if any(part is not None for part in (selection.member, selection.weights, selection.sizes)):
        raise ValueError(f"{name!r} drops cached keys, which are not merged: a Selection of keep and counts is allowed")


def _joined(before: Selection | None, own: Selection, rows: Sequence[int] | None, keys: Keys) -> Selection:
    """A selection for all rows, of one for some; rows that nobody asked about keep everything."""
    if rows is None:
        return own
    batch, heads, length = keys.key.shape[:3]
    whole = own.keep.new_ones(batch, length) if before is None else before.keep
    if own.keep.dim() == 3 and whole.dim() == 2:
        whole = whole[:, None].expand(-1, heads, -1)
    keep = own.keep[:, None].expand(-1, heads, -1) if whole.dim() == 3 and own.keep.dim() == 2 else own.keep
    whole = whole.index_copy(0, torch.tensor(rows, device=whole.device), keep)
    counts = None
    if own.counts is not None and (before is None or before.counts is not None):
        left = [length] * batch if before is None or before.counts is None else [*before.counts]
        for row, count in zip(rows, own.counts, strict=True):
            left[row] = count
        counts = tuple(left)
    return Selection(whole, counts)


def compact(lane: Lane, cache: Any) -> None:
    """Drop the keys that strategies did not keep, in one gather a layer."""
    for index, selection in lane.evicted.items() if cache is not None else ():
        _compact(lane, track(cache, index), selection)
    if lane.evicted and cache is not None:
        limit_crops(cache)


def _compact(lane: Lane, layer: TrackedLayer, selection: Selection) -> None:
    keys, fed, keymap = layer.keys, lane.past + lane.length, layer.keymap
    batch, heads, length = keys.shape[:3]
    keep = selection.keep.to(keys.device)
    before = keymap.padding(lane.padding, fed) if keymap.dropped else lane.padding
    if before is not None:
        before = before[:, :length].to(keys.device)
        keep = keep & (before if keep.dim() == 2 else before[:, None])
    # Candidates of speculative decoding stand behind the prompt, and may be taken back.
    tail = lane.asked - 1 if lane.pictures is not None else 0
    if tail:
        keep = keep | (torch.arange(length, device=keys.device) >= length - tail)
    numbers, alike = selection.counts, True
    if numbers is None or tail:
        by_row = keep.sum(-1).view(batch, -1).tolist()
        numbers = tuple(number for row in by_row for number in row)
        alike = all(len({*row}) == 1 for row in by_row)
    most = max(numbers)
    kept, held = columns_of(keep, most)
    real = held if before is not None or len({*numbers}) > 1 else None
    at = keymap.positions(fed, keys.device)
    at = at.expand(batch, *at.shape[1:])
    by_head = kept if kept.dim() == 3 else kept[:, None].expand(-1, heads, -1)
    inner = layer.inner
    inner.keys = keys.gather(2, by_head[..., None].expand(-1, -1, -1, keys.shape[3]))
    inner.values = inner.values.gather(2, by_head[..., None].expand(-1, -1, -1, inner.values.shape[3]))
    if hasattr(inner, "cumulative_length"):  # with a window, which has not cut yet, a layer counts what it was given
        inner.cumulative_length = most
    shut = keymap.shut_after(length)
    if at.dim() == 3 or kept.dim() == 3:
        at = at if at.dim() == 3 else at[:, None].expand(-1, heads, -1)
        at = at.gather(2, by_head)
    else:
        at = at.gather(1, kept)
    if shut is not None:
        shut = shut.gather(2, by_head)
    valid = real
    if real is not None and real.dim() == 3:
        valid = real.any(1)
    if real is not None and real.dim() == 3 and not alike:
        shut = ~real if shut is None else shut | ~real
    layer.keymap = KeyMap(
        most, fed, at, valid, tail, object(), _notes(keymap.memory, kept, length, bool(lane.plan.at_attend)), shut=shut,
    )  # fmt: skip


def _notes(memory: Memory, kept: Tensor, length: int, read: bool) -> Memory:
    """What was noted of the keys that stay; which hold visual tokens is not kept where heads hold different ones."""
    if kept.dim() == 2:
        return Memory(
            {name: (memory.marks(name, length).gather(1, kept), fill) for name, (_, fill) in memory.keys.items()},
            memory.samples,
        )
    if read or memory.keys.keys() - {VISUAL}:
        raise ValueError(
            "heads would hold different keys, of which a strategy that acts inside attention has to know which are "
            "visual: let all heads keep the same ones, by scores (B, S), or keep one of the strategies"
        )
    return Memory(samples=memory.samples)
