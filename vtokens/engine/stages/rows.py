"""The `rows` stage: a decoder layer computes some of its visual tokens, and the others pass through it as they are.

Their keys and values are made, so that later positions see them. Queries, attention, the output projection and the MLP
run on the rows that are computed alone: parts that work row by row are handed those (`ROW_WISE`), and what they give is
put back among zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vtokens.adapters.decoder import inside
from vtokens.engine.state.computed import Computed
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.signals import Signals
from vtokens.strategies.views.visuals import Visuals

ROW_WISE = ("q_proj", "o_proj", "mlp")
"""Parts of a decoder layer that work row by row, by their names; what a layer calls otherwise runs on all rows."""


def row_wise(layer: Any, name: str) -> nn.Module | None:
    """A part of a decoder layer that works row by row; None if it has none of this name."""
    holder = layer if name == "mlp" else inside(getattr(layer, "self_attn", None))
    found = getattr(holder, name, None)
    return found if isinstance(found, nn.Module) else None


def choose(lane: Lane, index: int) -> None:
    """Ask which visual tokens decoder layer `index` computes, once its states are in `lane.hidden`."""
    pictures, acting = lane.pictures, lane.plan.at_rows.get(index, ())
    if pictures is None or not acting or not lane.shows:
        return
    device = lane.hidden.device
    layout = lane.layout_on(device)
    passes, most = torch.zeros_like(layout.visual), list(layout.counts)
    with pictures.record.selecting(device):
        for one in acting:
            rows = lane.batch_rows(one.rows)
            part, hidden = (layout, lane.hidden) if rows is None else (layout.rows(rows), lane.hidden[rows])
            if not any(part.counts):
                continue
            visuals = Visuals(hidden, part, one.strategy.grouping, Signals(lane, pictures, lane.view, rows))
            selection = one.strategy.at_rows(visuals, index)
            if selection is None:
                continue
            if any(said is not None for said in (selection.member, selection.weights, selection.sizes, selection.into)):
                raise ValueError(
                    f"{one.strategy.name!r} merges tokens of which layer {index} computes some: all of them go on, so "
                    "that a Selection of keep and counts is allowed"
                )
            stay = part.groups(one.strategy.grouping).scatter(selection.keep, part.visual)
            counts = part.per_picture(one.strategy.grouping, selection.counts)
            counts = part.count(stay) if counts is None else counts
            if rows is not None:
                stay, counts = layout.with_rows(rows, stay, counts)
            passes = passes | (layout.visual & ~stay)
            most = [min(pair) for pair in zip(most, counts, strict=True)]
    width = lane.hidden.shape[1]
    seen, left = layout.per_sample(), layout.per_sample(most)
    padding = [lead + trail for lead, trail in zip(layout.lead, layout.trail, strict=True)]
    counted = [width - pad - all_ + some for pad, all_, some in zip(padding, seen, left, strict=True)]
    if left != seen:
        lane.computed[index] = Computed.of(~passes & layout.valid.bool(), max(counted))
        pictures.record.computed[index] = tuple(counted)


def take(lane: Lane, index: int, name: str, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """What a part that works row by row is handed in place of `args`; None if it gets all of its rows."""
    computed = _fewer(lane, index, name)
    if computed is None or not args or args[0].shape[:2] != computed.stay.shape:
        return None
    return computed.take(args[0], 1), *args[1:]


def put(lane: Lane, index: int, name: str, output: Any) -> Any:
    """What such a part gave, among all rows; None if that is what it gave."""
    computed = _fewer(lane, index, name)
    hidden = output[0] if isinstance(output, tuple) else output
    if computed is None or hidden.shape[:2] != computed.index.shape:
        return None
    whole = computed.put(hidden)
    return (whole, *output[1:]) if isinstance(output, tuple) else whole


def restore(lane: Lane, index: int, output: Any) -> Any:
    """What leaves decoder layer `index`, with the rows that it did not compute as they entered it."""
    computed = lane.computed.get(index)
    if computed is None:
        return output
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    whole = torch.where(computed.stay.to(hidden.device)[..., None], hidden, lane.hidden.to(hidden))
    return (whole, *output[1:]) if isinstance(output, tuple) else whole


def _fewer(lane: Lane, index: int, name: str) -> Computed | None:
    computed, plan = lane.computed.get(index), lane.plan
    # Who looks at queries of the picture is to find them.
    read = name == "q_proj" and (index in plan.observed or index in plan.at_attend or index in plan.at_cache)
    return None if computed is None or read or not computed.fewer else computed
