"""The `prompt` stage where visual tokens stand outside the sequence: keys of cross-attention layers are dropped.

The features are a sequence of their own, (B, K, D), without text. Strategies see it as the prompt of other families;
what it comes to is handed to the decoder, whose cross-attention layers then make, and cache, keys of what was kept.

    features of a row      c  v0 v1 v2 v3   -  -  -  -  -      c class token, - a tile that is padding
    kept of v1 and v2      c  v0       v3                      padding goes from rows that lose tokens
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.core.layout import Layout
from vtokens.engine.checks.rows import check_rows
from vtokens.engine.plan import Plan
from vtokens.engine.record import Record
from vtokens.engine.stages.cross_cache import cross_layers
from vtokens.engine.stages.prompt import select
from vtokens.engine.state.cross_keys import Columns
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.tower_run import TowerRun
from vtokens.engine.state.view import View, columns_at, gather


class Left(NamedTuple):
    """The features that strategies kept.

    Attributes:
        columns: which keys they are.
        states: (B, K, D), the features; 0 on padding.
    """

    columns: Columns
    states: Tensor


def select_features(
    adapter: Adapter, plan: Plan, run: TowerRun, states: Tensor, fed: Tensor
) -> tuple[Record | None, Left | None]:
    """Let the strategies act on the features of a call.

    Args:
        run: of the tower that made them.
        states: (B, K, D), the features.
        fed: (B, N) or (B, N, D), what the decoder is fed.

    Returns:
        What was done, None if the batch has no picture; what is left, None if all is.
    """
    shown = adapter.placeholders(run.inputs)
    layout = Layout.build(shown, {run.modality: run.pictures}, next(iter(shown.values())))
    _check_programs(plan, fed, layout)
    if not layout.pictures:
        return None, None
    batch, width = states.shape[:2]
    record = Record(layout, width, len(cross_layers(adapter)), states.element_size(), text=fed.shape[1])
    # Nothing is fed at a position: these have neither rotary positions nor an end of a prompt.
    nowhere = torch.zeros(batch, 1, dtype=torch.long, device=states.device)
    pictures = Pictures(layout, (run,), nowhere[None], nowhere, lambda: (0,) * batch, record)
    lane = Lane(adapter, plan, states, 0, None, None, pictures=pictures)
    for acting in plan.at_prompt:
        lane.hidden = select(lane, acting, acting.strategy.at_prompt, lane.hidden)
    if lane.view is None:
        return record, None
    columns = _columns(layout, lane.view, width)
    record.views = dict.fromkeys(range(record.depth), View(columns.index, columns.real, lane.view.layout))
    return record, Left(columns, columns.without_padding(_states(lane.view, columns, lane.hidden, states)))


def _columns(layout: Layout, view: View, width: int) -> Columns:
    """The keys that are left: rows that lose no token keep all, padding too, as each would by itself."""
    after = view.layout
    pairs = zip(layout.owner, layout.counts, after.counts, strict=True)
    losing = {owner for owner, had, has in pairs if has < had}
    whole = sorted({*layout.owner} - losing)
    lengths = after.per_sample([count + more for count, more in zip(after.counts, after.newlines, strict=True)])
    for row in whole:
        lengths[row] = width
    stay = (columns_at(view.index, view.real, width) >= 0) & layout.valid
    if whole:
        stay[torch.tensor(whole, device=stay.device)] = True
    index = (~stay).long().sort(dim=1, stable=True).indices[:, : max(lengths)]
    return Columns(index, stay.gather(1, index) if len({*lengths}) > 1 else None, width)


def _states(view: View, columns: Columns, hidden: Tensor, states: Tensor) -> Tensor:
    """(B, K, D) of the keys that are left, from the states (B, W, D) of a view and those (B, width, D) of all keys.

    Those of a view may have become weighted sums.
    """
    there = columns_at(view.index, view.real, columns.width).gather(1, columns.index)
    # What stands before a row's first token is in no view.
    seen = (there >= 0).to(hidden.device)[..., None]
    return torch.where(seen, gather(hidden, there.clamp(min=0), 1), gather(states, columns.index, 1))


def _check_programs(plan: Plan, fed: Tensor, layout: Layout) -> None:
    """Raise `ValueError` unless a batch has a row for each program, or rows that beams repeat."""
    if plan.programs is None:
        return
    copies, rest = divmod(len(fed), len(plan.programs))
    repeated = not rest and torch.equal(fed, fed[::copies].repeat_interleave(copies, 0))
    # A tower sees pictures once for each beam here, so that the layout counts none of them twice.
    check_rows(plan.programs, len(fed), None if repeated else layout)
