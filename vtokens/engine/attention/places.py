"""Where rows of an attention call stand, for strategies that let pictures change places (`Heads.places`)."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.engine.state.lane import Lane
from vtokens.strategies.views.places import Places, Segments


def places_of(lane: Lane, index: int, device: torch.device) -> Places:
    """What decoder layer `index` knows of the rows of this pass; its angles are those of `Places`, without a scale."""
    adapter, rope = lane.adapter, lane.specs[index].rope

    def turn(positions: Tensor) -> tuple[Tensor, Tensor]:
        return _unit(*adapter.rotary(torch.zeros(1, 1, 1, device=device), positions, rope))

    def rows() -> tuple[Tensor, Tensor]:
        if lane.angles is None:
            raise RuntimeError(f"how far decoder layer {index} turns its rows is not known")
        cos, sin = (part.to(device).float() for part in lane.angles)
        return _unit(*(part.expand(len(lane.hidden), -1, -1) for part in (cos, sin)))

    def segments() -> Segments | None:
        pictures = lane.pictures if lane.shows else None
        if pictures is None:
            return None
        found = lane.once(
            ("fed segments", device), lambda: Segments.of(pictures.layout.to(device), pictures.positions.to(device))
        )
        view = None if lane.view is None else lane.view.to(device)
        return found if found is None or view is None else found.seen(view.index, view.real)

    cos, sin = lane.once(("rows turned", lane.view, rope, device), rows)
    return Places(cos, sin, turn, adapter.anatomy.axes, lane.once(("segments", lane.view, device), segments))


def _unit(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Without what some rotations (YaRN) scale queries and keys by."""
    scale = torch.hypot(cos[..., :1], sin[..., :1])
    return cos / scale, sin / scale
