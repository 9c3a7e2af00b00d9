"""The numbers of columns seen, and rotary embeddings where dropped tokens leave no gap in them (`state.numbering`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from vtokens.adapters.decoder import check_gaps
from vtokens.engine.state.cache_layers import tracked
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.numbering import CLOSED
from vtokens.engine.state.view import gather
from vtokens.strategies.views.memory import Memory


def of_angles(change: Callable[..., Tensor], *angles: Any) -> Any:
    """What `change` makes of rotary angles: of cosines and of sines, each by themselves, or of complex numbers."""
    if isinstance(angles[0], Tensor):
        return change(*angles)
    return tuple(change(*parts) for parts in zip(*angles, strict=True))


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
    rope, origin = lane.specs[index].rope, None if layer is None else layer.keymap.origin
    return lane.once(
        ("numbers", origin, lane.view, rope),
        lambda: lane.adapter.rotary(lane.hidden, numbers(lane, index, positions), rope),
    )


def numbers(lane: Lane, index: int, positions: Tensor) -> Tensor:
    """int64 (B or 1, W): the numbers of the columns seen in decoder layer `index`, closed gaps left out.

    Args:
        positions: int64 (B or 1, W), as the decoder got them at its input.
    """
    layer, numbering = tracked(lane.cache, index), lane.numbering
    closed = None if layer is None else layer.keymap.memory.samples.get(CLOSED)
    at = positions if lane.columns is None else gather(positions, lane.columns, 1)
    at = at if numbering is None else at - numbering.gone.to(at.device)
    at = at if closed is None else at - closed.to(at.device)[:, None]
    return at if numbering is None and closed is None else at.clamp(min=0)


def layer_positions(lane: Lane, index: int, positions: Tensor | None) -> Tensor | None:
    """What decoder layer `index` is told of positions where tokens were dropped: `numbers`, if it computes with them.

    Other layers hand them on to flash attention, which would take gaps in them for the bounds of packed samples.

    Raises:
        ValueError: the layer computes with them, and attention is flash attention.
    """
    if positions is None or not lane.reads_positions:
        return None
    check_gaps(lane.adapter)
    return numbers(lane, index, positions)
