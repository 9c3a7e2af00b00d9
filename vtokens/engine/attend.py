"""The `attend` stage: strategies change what the heads of one attention call put out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vtokens.core.layout import Layout
from vtokens.engine.attention import Attention
from vtokens.engine.cache import held
from vtokens.engine.call import Call
from vtokens.engine.padding import seen_padding
from vtokens.strategies.base import Strategy
from vtokens.strategies.views.heads import VISUAL, Heads, Memory, Rows, Span


def attend(
    call: Call, index: int, attention: Attention, strategies: Sequence[tuple[Strategy, Any]]
) -> tuple[Tensor, Any]:
    """Run one attention call of decoder layer `index` with the strategies that act in it, in order."""
    layer = held(call.cache, index)
    memory = layer.prefix.memory if layer is not None else Memory()
    fresh = call.record is not None and call.layout is not None and any(call.layout.counts)
    if not (fresh or VISUAL in memory.keys):
        strategies = [pair for pair in strategies if pair[0].watches]
    if not strategies:
        return attention.run()
    heads = _heads(call, index, attention, memory, fresh)
    heads.fed = None if call.view is None else call.view.index.to(attention.query.device)
    if call.branch is not None:
        heads.branch = call.branch.output
    if call.record is not None:
        heads.selecting = partial(call.record.selecting, attention.query.device)
    for strategy, heads.prepared in strategies:
        heads.told = {}
        strategy.at_attend(heads)
        if call.record is not None and heads.told:
            call.record.told.append((strategy, heads.told))
    # Who only looks needs no memory, and leaves the cache as it is.
    if fresh and not all(strategy.watches for strategy, _ in strategies):
        call.memories[index] = heads.noted
    return heads.result, None


def _heads(call: Call, index: int, attention: Attention, memory: Memory, fresh: bool) -> Heads:
    query, key, length = attention.query, attention.key, attention.query.shape[2]
    assert call.hidden is not None
    past = key.shape[2] - length
    valid = seen_padding(call, index, past, length)
    place = _shared(call, "place", lambda: torch.arange(length, device=query.device).expand(len(query), -1))
    answers = last = Rows(place, whole=True)
    noted, spans = Memory(), ()
    if fresh:
        assert call.layout is not None
        layout = call.layout.to(query.device)
        noted.keys[VISUAL] = (layout.visual, 0)
        answers = _shared(call, f"answers {past if memory else 0}", lambda: _answers(call, query.device, memory, past))
        last = _shared(call, "last", lambda: Rows(call.last_prompt(query.device)))
        spans = _shared(call, "spans", lambda: _spans(call, layout))
    return Heads(
        index, query, key, attention.value, attention.scaling, call.hidden,
        None if valid is None else valid.to(query.device), fresh, answers, last, memory,
        lambda: attention.run()[0], noted, spans,
    )  # fmt: skip


def _answers(call: Call, device: torch.device, memory: Memory, past: int) -> Rows:
    """Text from the first visual token of each sample on, whichever pass brought it."""
    assert call.layout is not None
    layout = call.layout.to(device)
    length = layout.visual.shape[1]
    shown, most = layout.visual.cumsum(1) > 0, max(layout.text_after())
    if VISUAL in memory.keys:
        shown, most = shown | memory.marks(VISUAL, past).any(1, keepdim=True), length
    chosen = layout.valid & (layout.image < 0) & shown
    index = torch.where(chosen, torch.arange(length, device=device), -1).sort(1).values[:, length - most :]
    return Rows(index.clamp(min=0), index >= 0)


def _spans(call: Call, layout: Layout) -> tuple[Span, ...]:
    """Where each sample's prompt stands among the rows of `layout`."""
    strides: list[set[int]] = [set() for _ in layout.lead]
    for row, picture in zip(layout.owner, layout.pictures, strict=True):
        strides[row] |= {*picture.strides}
    found, width = [], layout.visual.shape[1]
    parts = zip(layout.lead, layout.trail, call.answered(), layout.per_sample(), strides, strict=True)
    for lead, trail, answered, tokens, own in parts:
        stop = max(lead, width - trail)
        found.append(Span(lead, max(lead, stop - answered), stop, tokens, tuple(sorted(own))))
    return tuple(found)


def _shared(call: Call, name: str, make: Any) -> Any:
    """What layers that see the same have in common."""
    key = (name, call.view.group if call.view else 0)
    if key not in call.scratch:
        call.scratch[key] = make()
    return call.scratch[key]
