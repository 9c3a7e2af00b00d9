"""The `states` stage: strategies add to what leaves a decoder layer, or its MLP, in every pass.

hidden -> attention -> + -> mlp -> [mlp] -> + -> [layer] -> next layer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vtokens.engine.attention.by_program import of_rows, take_over_notes
from vtokens.engine.lanes.text import TextLane
from vtokens.engine.program import Acting
from vtokens.engine.state.cache_layers import memory_of
from vtokens.engine.state.lane import Lane
from vtokens.strategies.views.memory import Memory
from vtokens.strategies.views.states import Place, States


def steer(lane: Lane, index: int, place: Place, hidden: Tensor, text: TextLane | None) -> Tensor:
    """States (B, W, D) that go on behind `place` of decoder layer `index`.

    Args:
        place: where in it.
        hidden: what the model made there.
        text: the prompt's text without its pictures; None if nothing is compared with it.

    Raises:
        ValueError: a strategy adds something of another shape.
    """
    acting = lane.plan.at_states.get((place, index), ())
    if not acting:
        return hidden
    view, pictures = lane.view, lane.pictures
    memory = memory_of(lane.cache, index)
    valid = lane.fed_now(view)
    valid = None if valid is None else valid.to(hidden.device)
    visual = last = None
    if pictures is not None:
        visual, last = lane.layout_on(hidden.device).visual, lane.last_prompt(pictures, hidden.device)
    noted = lane.notes.setdefault(index, Memory())
    whole = States(index, place, hidden, valid, visual, last, memory, noted=noted)
    for one in acting:
        rows = lane.batch_rows(one.rows)
        part = whole if rows is None else of_rows(whole, rows)
        apart = None if text is None or not one.needs.text_lane else text.states.get((place, index))
        part = replace(
            part, prepared=one.prepared, text_lane=apart if apart is None or rows is None else apart[rows], metrics={}
        )
        delta = one.strategy.at_states(part)
        lane.log(one.strategy, part.metrics)
        if rows is not None:
            take_over_notes(noted, part.noted, rows, len(hidden))
        if delta is not None:
            whole = replace(whole, hidden=_added(whole.hidden, delta, rows, one))
    if not noted:
        del lane.notes[index]
    return whole.hidden


def _added(hidden: Tensor, delta: Tensor, rows: Sequence[int] | None, acting: Acting) -> Tensor:
    shape = (len(hidden) if rows is None else len(rows), *hidden.shape[1:])
    try:
        delta = delta.to(hidden).expand(shape)
    except RuntimeError:
        raise ValueError(
            f"{acting.strategy.name!r} adds {tuple(delta.shape)} to states of {shape}: that shape is allowed, or one "
            "that spreads to it, as (D,) and (B, 1, D) do"
        ) from None
    if rows is None:
        return hidden + delta
    return hidden.index_add(0, torch.tensor(rows, device=hidden.device), delta.contiguous())
