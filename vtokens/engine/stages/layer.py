"""Decoder layers that see less than was fed: strategies drop tokens before them, and their inputs are cut."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from vtokens.engine.attention.fold import fold_now
from vtokens.engine.attention.lane_mask import lane_mask
from vtokens.engine.attention.numbers import renumber
from vtokens.engine.attention.padding import slots_seen
from vtokens.engine.attention.step import mask_and_angles
from vtokens.engine.attention.unmerge import unturned
from vtokens.engine.stages.prompt import select
from vtokens.engine.stages.room import make_room
from vtokens.engine.state.cache_layers import shortened
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.slots import keeps_all
from vtokens.engine.state.view import gather


def drop(lane: Lane, index: int, hidden: Tensor) -> Tensor:
    """Let the `layer` strategies act on states (B, W, D) that enter decoder layer `index`; returns those that go on.

    What a decoder adds behind the layer before is added first, so that strategies see it as the decoder would.
    """
    if lane.injection is not None:
        hidden = lane.injection.add(index, hidden, lane.view)
    for acting in lane.plan.at_layer.get(index, ()) if lane.pictures is not None else ():
        hidden = select(lane, acting, partial(acting.strategy.at_layer, index=index), hidden)
    return hidden


def adjust(lane: Lane, index: int, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The keyword arguments of decoder layer `index`, cut to what it sees; None if they are right as they are."""
    layer, blocks = shortened(lane.cache, index), lane.blocks
    lane.angles = kwargs.get("position_embeddings")
    # Masks that were prepared for a prompt may be those of a layer that lets go of keys.
    made = (blocks is None or blocks.made) and (lane.past > 0 or not keeps_all(lane.cache, index))
    if lane.view is None and layer is None and made:
        return None
    if lane.view is None and lane.pictures is None and layer is not None and layer.keymap.slots is None:
        mask, angles = mask_and_angles(lane, index, kwargs.get("position_ids"))
        lane.angles = kwargs["position_embeddings"] if angles is None else angles
        return {**kwargs, "attention_mask": mask, "position_embeddings": lane.angles}
    kwargs, renumbered = dict(kwargs), renumber(lane, index, kwargs.get("position_ids"))
    if renumbered is not None:
        kwargs["position_embeddings"] = renumbered
    if lane.view is None and layer is not None and layer.keymap.slots is not None:
        kwargs["attention_mask"] = layer.mask(kwargs["attention_mask"])
        return kwargs
    if lane.view is not None:
        make_room(lane, index, lane.view)
        lane.views[index] = lane.view
        # Only packed-sequence detection reads them here, and gaps in them look like packing.
        kwargs["position_ids"] = None
    if lane.columns is not None and renumbered is None:
        kwargs["position_embeddings"] = _position_embeddings(lane, index, lane.columns, kwargs["position_embeddings"])
    lane.angles = kwargs["position_embeddings"]
    fold = fold_now(lane)
    if fold is not None:
        lane.folds[index] = fold
        kwargs["position_embeddings"] = unturned(kwargs["position_embeddings"])
    # Masks made at the decoder's input count a window in columns, and the slots of the first layer; they are causal.
    own = (
        not made
        or blocks is not None
        or fold is not None
        or lane.view is not lane.entry
        or lane.past
        or layer is not None
    )
    if own or index in lane.windows or slots_seen(lane, index) is not None:
        kwargs["attention_mask"] = lane_mask(lane, index, lane.hidden, fold)
    return kwargs


def _position_embeddings(lane: Lane, index: int, columns: Tensor, embeddings: Any) -> Any:
    """(cos, sin) of the columns still seen, from those the language model made at its input."""
    return lane.once(
        ("positions", lane.view, lane.specs[index].rope),
        lambda: tuple(gather(part, columns, part.dim() - 2) for part in embeddings),
    )
