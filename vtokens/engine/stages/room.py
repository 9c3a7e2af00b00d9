"""Static caches get room for what is kept and the steps to come, not for what was fed."""

from __future__ import annotations

from typing import Any

from vtokens.engine.state.keymap import KeyMap
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.slots import fitted
from vtokens.engine.state.tracked_layer import TrackedLayer
from vtokens.engine.state.view import View


def make_room(lane: Lane, index: int, view: View) -> None:
    """Let a static layer that holds nothing yet allocate what decoder layer `index` needs under `view`.

    Its caller gave it room for all that is fed in this pass and later; what is dropped now will never come. Layers that
    are allocated already are used as they are.
    """
    there: Any = None if lane.cache is None or index >= len(lane.cache.layers) else lane.cache.layers[index]
    inner, room = (there.inner, there.room) if isinstance(there, TrackedLayer) else (there, None)
    room = getattr(inner, "max_cache_len", None) if room is None else room
    if room is None or inner.is_initialized:
        return
    smaller = fitted(inner, room - lane.length + view.index.shape[1], lane.plan.rooms, index)
    if smaller is not inner:
        lane.cache.layers[index] = TrackedLayer(smaller, KeyMap.plain(0), room)
