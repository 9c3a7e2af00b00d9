"""Rotary embeddings under compact numbering (`state.numbering`), where dropped tokens leave no gap."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vtokens.engine.state.cache_layers import tracked
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.numbering import CLOSED
from vtokens.engine.state.view import gather
from vtokens.strategies.views.memory import Memory


def renumber(lane: Lane, index: int, positions: Tensor | None) -> Any:
    """(cos, sin) of the columns seen in decoder layer `index`, where gaps in their numbers were closed; None elsewhere.

    Args:
        positions: int64 (B or 1, W), as the decoder got them at its input; looked at where gaps were closed.
    """
    layer, numbering = tracked(lane.cache, index), lane.numbering
    closed = None if layer is None else layer.keymap.memory.samples.get(CLOSED)
    if numbering is not None:
        total = numbering.total if closed is None else numbering.total + closed.to(numbering.total.device)
        lane.notes.setdefault(index, Memory()).samples[CLOSED] = total
    if positions is None or (numbering is None and closed is None):
        return None

    def make() -> Any:
        at = positions if lane.columns is None else gather(positions, lane.columns, 1)
        at = at if numbering is None else at - numbering.gone.to(at.device)
        at = at if closed is None else at - closed.to(at.device)[:, None]
        return lane.adapter.rotary(lane.hidden, at.clamp(min=0), lane.specs[index].rope)

    origin = None if layer is None else layer.keymap.origin
    return lane.once(("numbers", origin, lane.view, lane.specs[index].rope), make)
