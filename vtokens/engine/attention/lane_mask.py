"""The mask of one decoder layer in one lane: who may see whom, counted in the positions that were fed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vtokens.engine.attention.masks import layer_mask
from vtokens.engine.attention.padding import seen_padding
from vtokens.engine.state.folds import Fold
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.tracked_layer import seen_length, shortened


def lane_mask(lane: Lane, index: int, hidden: Tensor, fold: Fold | None = None) -> Any:
    """The mask of decoder layer `index` for states (B, W, D) that enter it.

    Args:
        lane: whose states they are.
        index: decoder layer.
        hidden: the states.
        fold: how merged tokens are unmerged in its attention; None if they are not.
    """
    layer, view = shortened(lane.cache, index), lane.view if fold is None else fold.view
    past, length = seen_length(lane.cache, index), hidden.shape[1] if fold is None else fold.member.shape[1]

    def make() -> Any:
        allowed = seen_padding(lane, index, past, length, view)
        allowed = None if allowed is None else allowed.to(hidden.device)
        return layer_mask(lane.adapter.language_model.config, hidden, past, allowed, length)

    # Layers whose keys were dropped together, and that see the same of this pass, share one mask.
    return lane.once(("mask", past, None if layer is None else layer.keymap.origin, view, hidden.device), make)
