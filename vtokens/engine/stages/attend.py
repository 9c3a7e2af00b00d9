"""The `attend` stage: strategies change what the heads of one attention call put out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vtokens.core.columns import columns_of
from vtokens.core.later import Later
from vtokens.core.layout import Layout
from vtokens.engine.attention.by_program import by_program
from vtokens.engine.attention.key_padding import seen_padding
from vtokens.engine.attention.places import places_of
from vtokens.engine.attention.rotary import still_layers
from vtokens.engine.attention.tap import AttentionCall
from vtokens.engine.lanes.text import TextLane
from vtokens.engine.program import Acting
from vtokens.engine.state.cache_layers import memory_of
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.signals import Signals
from vtokens.engine.state.view import View
from vtokens.strategies.views.heads import VISUAL, Heads, Memory, Rows, Span


def attend(
    lane: Lane, index: int, attention: AttentionCall, strategies: Sequence[Acting], text: TextLane | None
) -> tuple[Tensor, Any]:
    """Run one attention call of decoder layer `index` with the strategies that act in it, in order.

    Args:
        strategies: those that act in it.
        text: the prompt's text without its pictures; None if nothing is compared with it.
    """
    if not strategies:
        return attention.run()
    memory = memory_of(lane.cache, index)
    pictures = lane.pictures if lane.shows else None
    if pictures is None and VISUAL not in memory.keys:
        strategies = [acting for acting in strategies if acting.needs.watches]
    if not strategies:
        return attention.run()
    heads = _heads(lane, index, attention, memory, pictures)
    if index in lane.early_columns:
        heads.asked = Rows(lane.early_columns[index].to(attention.query.device))
    if any(acting.needs.moves for acting in strategies):
        heads.places = places_of(lane, index, attention.query.device)
    heads.fed = None if lane.view is None else lane.view.index.to(attention.query.device)
    if lane.pictures is not None:
        heads.selecting = partial(lane.pictures.record.selecting, attention.query.device)
    for rows, part, some in by_program(heads, strategies, lane.batch_rows):
        for acting in some:
            part.prepared, part.metrics = acting.prepared, {}
            part.observed = None if pictures is None else Signals(lane, pictures, lane.view, rows)
            part.text_lane = text.output_of(rows) if text is not None and acting.needs.text_lane else None
            acting.strategy.at_attend(part)
            lane.log(acting.strategy, part.metrics)
    if heads.sent is not None:
        lane.sent[index] = heads.sent
    # Who only looks needs no memory, and leaves the cache as it is.
    if heads.noted and not all(acting.needs.watches for acting in strategies):
        notes = lane.notes.setdefault(index, Memory())
        notes.keys.update(heads.noted.keys)
        notes.samples.update(heads.noted.samples)
    return heads.result.contiguous(), None  # as transformers' own are, of which some modules take a view


def _heads(lane: Lane, index: int, attention: AttentionCall, memory: Memory, pictures: Pictures | None) -> Heads:
    query, key, length = attention.query, attention.key, attention.query.shape[2]
    past, device, view = key.shape[2] - length, query.device, lane.view
    valid = seen_padding(lane, index, past, length, view, device)
    place = lane.once(("place", view, device), lambda: torch.arange(length, device=device).expand(len(query), -1))
    answers: Any = Rows(place, whole=True)
    last: Any = answers
    if lane.aside is not None:
        answers = Rows(*columns_of(~lane.aside.to(device), length))
    noted, writing = Memory(), answers
    spans: Any = ()
    if pictures is not None:
        layout = lane.layout_on(device)
        noted.keys[VISUAL] = (layout.visual, 0)
        before = past if memory else 0
        # For whoever asks: what only watches does not, and the host waits for the device to answer some.
        answers = Later(lambda: lane.once(("answers", before, view, device), lambda: _answers(layout, memory, past)))
        last = Later(lambda: lane.once(("last", view, device), lambda: Rows(lane.last_prompt(pictures, device))))
        writing = Later(
            lambda: lane.once(
                ("writing", before, view, device), lambda: _writing(pictures, layout, memory, past, last.value)
            )
        )
        spans = Later(lambda: lane.once(("spans", view), lambda: _spans(pictures, layout)))
    return Heads(
        index, query, key, attention.value, attention.scaling, lane.hidden,
        valid, pictures is not None, answers, last, writing, memory,
        lambda: attention.run()[0], noted, spans,
        until=_until(lane, index, view, device), softcap=attention.softcap,
        layout=None if pictures is None else lane.layout_on(device), bias=attention.bias,
        turns=None if attention.bias is None else _turns(lane, index, query),
    )  # fmt: skip


def _turns(lane: Lane, index: int, query: Tensor) -> Tensor | None:
    if lane.angles is None or index in still_layers(lane.adapter):
        return None

    def make() -> Tensor:
        parts: Any = lane.angles
        parts = (parts.real, parts.imag) if isinstance(parts, Tensor) else parts
        both = torch.cat([part.to(query.device).float() for part in parts], -1)
        return torch.nn.functional.normalize(both, dim=-1).expand(len(query), -1, -1)

    return lane.once(("turns", lane.view, lane.specs[index].rope, query.device), make)


def _until(lane: Lane, index: int, view: View | None, device: torch.device) -> Tensor | None:
    both_ways = lane.both_ways_at(index)
    return None if both_ways is None else lane.once(("until", view, device), lambda: both_ways.until(view, device))


def _answers(layout: Layout, memory: Memory, past: int) -> Rows:
    """Text from the first visual token of each sample on, whichever pass brought it."""
    if VISUAL not in memory.keys:
        return Rows(*columns_of(layout.words_after, max(layout.text_after())))
    before = memory.marks(VISUAL, past).any(1, keepdim=True)
    return Rows(*columns_of(torch.where(before, layout.words, layout.words_after), layout.visual.shape[1]))


def _writing(pictures: Pictures, layout: Layout, memory: Memory, past: int, last: Rows) -> Rows:
    """The end of each prompt and the text behind it, of samples that see pictures of this pass or of an earlier one."""
    answered = max(pictures.answered())
    if not answered and all(layout.per_sample()):
        return last
    sees = layout.visual.any(1, keepdim=True)
    if VISUAL in memory.keys:
        sees = sees | memory.marks(VISUAL, past).any(1, keepdim=True)
    behind = torch.arange(layout.visual.shape[1], device=sees.device) > last.index
    return Rows(*columns_of((layout.words & behind).scatter(1, last.index, True) & sees, answered + 1))


def _spans(pictures: Pictures, layout: Layout) -> tuple[Span, ...]:
    """Where each sample's prompt stands among the columns of `layout`."""
    strides: list[set[int]] = [set() for _ in layout.lead]
    for row, picture in zip(layout.owner, layout.pictures, strict=True):
        strides[row] |= {*picture.strides}
    found, width = [], layout.visual.shape[1]
    parts = zip(layout.lead, layout.trail, pictures.answered(), layout.per_sample(), strides, strict=True)
    for lead, trail, answered, tokens, own in parts:
        stop = max(lead, width - trail)
        found.append(Span(lead, max(lead, stop - answered), stop, tokens, tuple(sorted(own))))
    return tuple(found)
