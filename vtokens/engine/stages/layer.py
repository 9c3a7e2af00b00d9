"""Decoder layers that see less than was fed: strategies drop tokens before them, and their inputs are cut."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from vtokens.engine.attention.fold import fold_now
from vtokens.engine.attention.key_padding import slots_seen
from vtokens.engine.attention.masks import lane_mask, mask_and_angles
from vtokens.engine.attention.renumber import layer_positions, of_angles, renumber
from vtokens.engine.attention.unmerge import unturned
from vtokens.engine.stages.prompt import select
from vtokens.engine.state.cache_layers import shortened
from vtokens.engine.state.keymap import KeyMap
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.slots import fitted, keeps_all
from vtokens.engine.state.tracked_layer import TrackedLayer
from vtokens.engine.state.view import View, gather, spread
from vtokens.strategies.signals import Entering


def drop(lane: Lane, index: int, hidden: Tensor) -> Tensor:
    """Let the `layer` strategies act on states (B, W, D) that enter decoder layer `index`; returns those that go on.

    What a decoder adds behind the layer before is added first, so that strategies see it as the decoder would.
    """
    if lane.injection is not None:
        hidden = lane.injection.add(index, hidden, lane.view)
    for acting in lane.plan.at_layer.get(index, ()) if lane.pictures is not None else ():
        hidden = select(lane, acting, partial(acting.strategy.at_layer, index=index), hidden)
    if lane.pictures is not None:
        lane.pictures.pending.clear()
        if index in lane.plan.entering:
            lane.pictures.observed[Entering(index)] = spread(hidden.detach(), lane.view, lane.length)
    return hidden


def adjust(lane: Lane, index: int, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The keyword arguments of decoder layer `index`, cut to what it sees; None if they are right as they are."""
    if not lane.specs[index].attends:
        return _without_attention(lane, index, kwargs)
    slot = lane.specs[index].slot
    if slot == index:
        changed = _adjusted(lane, index, kwargs)
        lane.adjusted[index] = changed
        return changed
    # It attends to what an earlier layer made, and nothing was dropped since (`check_shared_keys`).
    if lane.view is not None:
        lane.views[index] = lane.view
    same = lane.adjusted[slot]
    names = ("attention_mask", "position_embeddings", "position_ids")
    return None if same is None else {**kwargs, **{name: same[name] for name in names}}


def _adjusted(lane: Lane, index: int, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """`adjust` for a layer with keys of its own."""
    layer, both_ways = shortened(lane.cache, index), lane.both_ways_at(index)
    lane.angles = kwargs.get("position_embeddings")
    # Masks that were prepared for a prompt may be those of a layer that lets go of keys.
    made = (both_ways is None or both_ways.made) and (lane.past > 0 or not keeps_all(lane.cache, index))
    if lane.view is not None:
        return _cut(lane, index, lane.view, kwargs, made and both_ways is None and layer is None)
    if layer is None and made:
        return None
    positions = kwargs.get("position_ids")
    if layer is not None and layer.keymap.slots is None:
        mask, angles = mask_and_angles(lane, index, layer, positions)
    else:
        mask = lane_mask(lane, index, lane.hidden) if layer is None else layer.mask(kwargs["attention_mask"])
        angles = renumber(lane, index, positions)
    lane.angles = kwargs["position_embeddings"] if angles is None else angles
    if angles is not None and lane.reads_positions:
        kwargs = {**kwargs, "position_ids": layer_positions(lane, index, positions)}
    return {**kwargs, "attention_mask": mask, "position_embeddings": lane.angles}


def _cut(lane: Lane, index: int, view: View, kwargs: dict[str, Any], made: bool) -> dict[str, Any]:
    """The keyword arguments of a layer that sees less than was fed; `made`: the decoder's mask may do at its input."""
    lane.views[index] = view
    _make_room(lane, index, view)
    lane.angles = renumber(lane, index, kwargs.get("position_ids"))
    if lane.angles is None:
        lane.angles = _angles(lane, index, lane.columns, kwargs["position_embeddings"])
    fold = fold_now(lane)
    if fold is not None:
        lane.folds[index] = fold
    # Masks made at the decoder's input count a window in columns, and the slots of the first layer; they are causal.
    made = made and fold is None and view is lane.entry and not lane.past and index not in lane.windows
    if not made or slots_seen(lane, index) is not None:
        kwargs = {**kwargs, "attention_mask": lane_mask(lane, index, lane.hidden, fold)}
    embeddings = lane.angles if fold is None else unturned(lane.angles)
    positions = layer_positions(lane, index, kwargs.get("position_ids"))
    return {**kwargs, "position_ids": positions, "position_embeddings": embeddings}


def _without_attention(lane: Lane, index: int, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The keyword arguments of a layer that keeps a state in place of keys: all it is told is what is padding.

    Padding is bool (B, W), and would go into the state otherwise; also where it evens out what was kept.

    Raises:
        ValueError: it would stand behind what a cache holds, where a state decays under it.
    """
    if lane.view is None:
        return None
    if lane.past and lane.view.real is not None:
        raise ValueError(
            "the samples of this batch keep different numbers of tokens behind what their cache holds, and decoder "
            f"layer {index} keeps a state in place of keys, which decays under the padding that evens them out: start "
            "again with an empty cache and the whole conversation, or with a batch of one, or detach() the strategy"
        )
    lane.views[index] = lane.view
    mask = kwargs.get("attention_mask")
    if lane.view is not lane.entry:  # else the decoder has made it of what it was given
        mask = lane.fed_now(lane.view)
        mask = None if mask is None else mask.to(lane.hidden.device)
    return {**kwargs, "attention_mask": mask, "position_ids": None}


def _angles(lane: Lane, index: int, columns: Tensor | None, embeddings: Any) -> Any:
    """(cos, sin), or complex angles, of the columns still seen, from those the language model made at its input."""
    if columns is None:
        return embeddings
    return lane.once(
        ("positions", lane.view, lane.specs[index].rope),
        lambda: of_angles(lambda part: gather(part, columns, part.dim() - 2), embeddings),
    )


def _make_room(lane: Lane, index: int, view: View) -> None:
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
