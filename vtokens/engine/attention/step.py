"""The mask and the angles of a decoder layer in a pass that sees all it is fed, over a cache that was shortened."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vtokens.engine.attention.masks import lane_mask
from vtokens.engine.attention.renumber import renumber
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.slots import static_layer
from vtokens.engine.state.tracked_layer import TrackedLayer


def mask_and_angles(lane: Lane, index: int, layer: TrackedLayer | None, positions: Tensor | None) -> tuple[Any, Any]:
    """The mask of decoder layer `index`, and (cos, sin) where gaps in the numbers of its keys were closed, else None.

    Both are looked up by what they follow from: a step of one token goes through all layers, most of which hold the
    same positions, and asking each of them anew took longer than making the mask.

    Args:
        layer: its cache layer, if that is shortened.
        positions: int64 (B or 1, W), as the decoder got them at its input.
    """

    def make() -> tuple[Any, Any]:
        return lane_mask(lane, index, lane.hidden), renumber(lane, index, positions)

    spec, window = lane.specs[index], lane.windows.get(index)
    if (static_layer(lane.cache.layers[index]) if layer is None else layer.room) is not None:
        return make()  # slots are another matter than keys
    # Of layers whose keys were dropped together, those that were given as many hold as many; others hold all.
    held = lane.past if layer is None else (layer.keymap.origin, layer.given)
    return lane.once(("step", held, window, spec.rope, lane.hidden.device), make)
