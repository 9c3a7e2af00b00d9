"""The `prompt` stage: strategies drop tokens of what enters the decoder, and what goes with them is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vtokens.core.layout import Grouping, Layout
from vtokens.engine.program import Acting
from vtokens.engine.state.blend import Blend
from vtokens.engine.state.folds import Unmerging
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.numbering import Numbering
from vtokens.engine.state.padding import join_padding
from vtokens.engine.state.per_layer import seen
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.positions import given_positions
from vtokens.engine.state.reduce import reduce
from vtokens.engine.state.signals import Signals, note_entering
from vtokens.engine.state.view import View, gather, spread
from vtokens.strategies.selection import Selection, as_said
from vtokens.strategies.views.visuals import Visuals


def enter(lane: Lane, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Let the `prompt` strategies act; returns the language model's cut inputs, None if nothing was dropped."""
    hidden = lane.hidden
    if lane.pictures is not None:
        note_entering(lane, lane.pictures)
    for acting in lane.plan.at_prompt:
        hidden = select(lane, acting, acting.strategy.at_prompt, hidden)
    lane.hidden, lane.entry, lane.columns = hidden, lane.view, None
    if lane.view is None:
        return None
    allowed = join_padding(lane.fed_before(), lane.fed_now(lane.view), lane.past, hidden.shape[1])
    if allowed is None:  # pass an explicit all-ones mask: position gaps would be read as packing
        allowed = torch.ones(len(hidden), lane.past + hidden.shape[1], dtype=torch.bool, device=hidden.device)
    position_ids = given_positions(kwargs, lane.past, lane.length, hidden.device)
    position_ids = gather(position_ids, lane.view.index, position_ids.dim() - 1)
    beside = seen(lane.adapter, kwargs, lane.view)
    return {**kwargs, "inputs_embeds": hidden, "attention_mask": allowed, "position_ids": position_ids, **beside}


def select(lane: Lane, acting: Acting, stage: Callable[[Visuals], Selection | None], hidden: Tensor) -> Tensor:
    """Let one strategy act on the states (B, W, D); returns those that go on."""
    pictures = lane.pictures
    if pictures is None or not lane.shows:
        return hidden
    layout = lane.layout_on(hidden.device)
    with pictures.record.selecting(hidden.device):
        rows = lane.batch_rows(acting.rows)
        part, states = (layout, hidden) if rows is None else (layout.rows(rows), hidden[rows])
        if not any(part.counts):
            return hidden
        signals = Signals(lane, pictures, lane.view, rows)
        visuals = Visuals(states, part, acting.strategy.grouping, signals, acting.prepared)
        selection = stage(visuals)
        if selection is None:
            return hidden
        _check(selection, acting)
        selection = as_said(selection, visuals.valid)
        for modifier in acting.modifiers:
            visuals, selection = _by_picture(replace(visuals, prepared=modifier.prepared), selection)
            selection = modifier.strategy.at_selection(visuals, selection)
            _check(selection, modifier)
            selection = as_said(selection, visuals.valid)
        return _selected(lane, pictures, acting, selection, part, visuals.grouping, rows, hidden)


def _by_picture(visuals: Visuals, selection: Selection) -> tuple[Visuals, Selection]:
    """What a modifier sees: groups are pictures, whatever the pruner chose among.

    Weights stay with the groups that they sum over.
    """
    if visuals.grouping == "image" or selection.weights is not None:
        return visuals, selection
    visual, layout = visuals.layout.visual, visuals.layout
    stay = layout.groups(visuals.grouping).scatter(selection.keep, visual)
    groups, counts = layout.groups("image"), layout.per_picture(visuals.grouping, selection.counts)
    return replace(visuals, grouping="image"), Selection(groups.gather(stay) & groups.valid, counts)


def _check(selection: Selection, acting: Acting) -> None:
    """Raise `ValueError` if a selection says more than its strategy announced, or two things at once."""
    name = acting.strategy.name
    if selection.member is not None and not acting.needs.unmerges:
        raise ValueError(
            f"{name!r} says which token goes on for those it drops (Selection.member) without having said "
            "that it would: let its needs() return Needs(unmerges=True), so that attention is prepared for it"
        )
    if selection.member is not None and (selection.weights is not None or selection.sizes is not None):
        raise ValueError(
            f"{name!r} names members, and weights or sizes too: tokens are either seen at all positions "
            "of their members, or become sums that count for several"
        )


def _selected(
    lane: Lane,
    pictures: Pictures,
    acting: Acting,
    selection: Selection,
    part: Layout,
    grouping: Grouping,
    rows: list[int] | None,
    hidden: Tensor,
) -> Tensor:
    """The states that go on after a selection among the visual tokens of `part`, the layout of some `rows`."""
    strategy, layout, view = acting.strategy, lane.layout_on(hidden.device), lane.view
    groups = part.groups(grouping)
    stay = groups.scatter(selection.keep, part.visual)
    counts = part.per_picture(grouping, selection.counts)
    counts = part.count(stay) if counts is None else counts
    blend = Blend.of(selection, groups, layout.visual.shape, rows)
    if blend is not None:
        hidden = _blended(lane, acting, blend, hidden)
    if rows is not None:
        stay, counts = layout.with_rows(rows, stay, counts)
    reduced = reduce(layout, stay, counts, view)
    if reduced is None:
        return hidden
    after, columns = reduced
    lane.view = after
    pictures.record.reduced.append((strategy, layout.counts, after.layout.counts))
    pictures.lost = _lost(pictures.lost, layout, after, view, lane.length)
    if selection.member is not None:
        stands = groups.stand(selection.member, layout.visual)
        pictures.unmerging = Unmerging(view, layout, stands, after, pictures.positions)
    if lane.sizes is not None and lane.bias is not None:
        lane.sizes, lane.bias = gather(lane.sizes, columns, 1), gather(lane.bias, columns, 1)
    was, now = layout.valid.bool(), after.layout.valid.bool()
    lane.numbering = Numbering.after(lane.numbering, columns, was, now, rows, acting.needs.compact)
    lane.columns = columns if lane.columns is None else lane.columns.to(columns.device).gather(1, columns)
    return gather(hidden, columns, 1)


def _blended(lane: Lane, acting: Acting, blend: Blend, hidden: Tensor) -> Tensor:
    """States (B, W, D) in which kept tokens are weighted sums; what they count for, and get later, goes along."""
    if blend.sizes is not None:
        if not any(one.needs.sizes for one in (acting, *acting.modifiers)):
            raise ValueError(
                f"{acting.strategy.name!r} says how many tokens each kept one counts for (Selection.sizes) without "
                "having said that it would: let its needs() return Needs(sizes=True), so that attention is prepared"
            )
        once = hidden.new_zeros(hidden.shape[:2], dtype=torch.float32)
        sizes, bias = (once if part is None else part.to(hidden.device) for part in (lane.sizes, lane.bias))
        lane.sizes, lane.bias = blend.put(sizes, blend.sizes), blend.put(bias, blend.share * blend.sizes)
    if blend.weights is None:
        return hidden
    if lane.injection is not None:
        lane.injection = lane.injection.blended(blend, lane.view)
    return blend.put(hidden, blend.tokens(hidden))


def _lost(lost: Tensor | None, before: Layout, after: View, view: View | None, length: int) -> Tensor | None:
    """`Pictures.lost` once `before` became `after`: which tokens were the last of samples that have none any more."""
    gone = [had > 0 and not has for had, has in zip(before.per_sample(), after.layout.per_sample(), strict=True)]
    if not any(gone):
        return lost
    last = before.visual & torch.tensor(gone).to(before.visual.device)[:, None]
    last = spread(last.long(), view, length) > 0
    return last if lost is None else lost.to(last.device) | last
