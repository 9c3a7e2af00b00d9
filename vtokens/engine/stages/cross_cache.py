"""The keys that cross-attention layers hold of visual tokens outside the sequence: room, columns and mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

from vtokens.adapters import Adapter
from vtokens.adapters.anatomy import Cross
from vtokens.engine.plan import Plan
from vtokens.engine.state.cross_keys import Columns, CrossKeys
from vtokens.engine.state.slots import fitted


def cross_layers(adapter: Adapter) -> tuple[int, ...]:
    """The decoder layers that attend to visual tokens outside the sequence."""
    return tuple(number for number, spec in enumerate(adapter.specs) if spec.kind == "cross")


def inputs_of(adapter: Adapter) -> Cross:
    """How the decoder of a family is handed visual tokens outside the sequence.

    Raises:
        ValueError: they stand in the sequence.
    """
    if adapter.anatomy.cross is None:
        raise ValueError(f"the visual tokens of a {type(adapter.model).__name__} stand in the sequence")
    return adapter.anatomy.cross


def held_columns(cache: Cache | None) -> Columns | None:
    """The keys that a cache holds already; None if none were dropped of them, or there are none."""
    layers = [] if cache is None else cache.layers
    return next((one.columns for one in layers if isinstance(one, CrossKeys) and one.columns is not None), None)


def columns_after(adapter: Adapter, cache: Cache | None, new: Columns | None, states: Tensor | None) -> Columns | None:
    """The keys of a sequence once those of `states` (B, K, D) stand in its cache; None if none of them were dropped.

    Args:
        cache: before the pass.
        new: the keys that are left of `states`; None if all are.
        states: features of the pass; None if it brings no picture.
    """
    old = held_columns(cache)
    if states is None or (old is None and new is None):
        return old
    batch, width = states.shape[:2]
    new = Columns.all(batch, width, states.device) if new is None else new
    first = cross_layers(adapter)[0]
    if old is None and cache is not None and first < len(cache.layers):
        layer: Any = cache.layers[first]
        held = int(layer.get_seq_length())
        old = Columns.all(batch, held, states.device) if held else None
    return new if old is None else old.then(new)


def make_room(adapter: Adapter, plan: Plan, cache: Cache | None, columns: Columns) -> Columns:
    """Let static cache layers of cross-attention allocate what is left of the keys; returns the columns of all slots.

    Raises:
        ValueError: a layer of another kind than those that grow and those of fixed slots, or one that is full.
    """
    layers: list[Any] = [] if cache is None else cache.layers
    for number in cross_layers(adapter):
        layer = layers[number] if number < len(layers) else None
        inner = layer.inner if isinstance(layer, CrossKeys) else layer
        if inner is None or type(inner) is DynamicLayer:
            continue
        if type(inner) is not StaticLayer:
            raise ValueError(
                f"a {type(inner).__name__} for the keys of cross-attention packs them: use the default DynamicCache "
                "(no cache_implementation), or a StaticCache, or detach() the strategy"
            )
        if int(inner.get_seq_length()):
            raise ValueError(
                "a static cache has slots for the pictures of the first prompt alone: use the default DynamicCache (no "
                "cache_implementation) for further ones"
            )
        layer = layer if isinstance(layer, CrossKeys) else CrossKeys(inner, None)
        layer.inner = fitted(inner, columns.index.shape[1], plan.rooms, number)
        columns, layers[number] = columns.padded(layer.inner.max_cache_len), layer
    return columns


def note_columns(adapter: Adapter, cache: Cache, columns: Columns) -> None:
    """Tell the cache layers of cross-attention which keys they hold."""
    for number in cross_layers(adapter):
        layer = cache.layers[number]
        if isinstance(layer, CrossKeys):
            layer.columns = columns
        else:
            cache.layers[number] = CrossKeys(layer, columns)


def cut_inputs(adapter: Adapter, kwargs: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """The decoder's inputs with a mask over the keys that are left.

    Raises:
        ValueError: the attention implementation takes no such mask, or the mask is not over all keys.
    """
    name, attention = inputs_of(adapter).mask, adapter.language_model.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ValueError(
            f"attn_implementation={attention!r} takes no mask over keys of cross-attention: use 'sdpa' or 'eager', or "
            "detach() the strategy"
        )
    return {**kwargs, name: columns.mask(kwargs.get(name), adapter.language_model.dtype)}
