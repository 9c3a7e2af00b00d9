"""The `prompt` stage where visual tokens stand outside the sequence: keys of cross-attention layers are dropped.

The features are a sequence of their own, (B, K, D), without text. Strategies see it as the prompt of other families;
what it comes to is handed to the decoder, whose cross-attention layers then make, and cache, keys of what was kept.

    features of a row      c  v0 v1 v2 v3   -  -  -  -  -      c class token, - a tile that is padding
    kept of v1 and v2      c  v0       v3                      padding goes from rows that lose tokens
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

from vtokens.adapters import Adapter
from vtokens.adapters.anatomy import Cross
from vtokens.core.layout import Layout
from vtokens.engine.checks.rows import check_rows
from vtokens.engine.plan import Plan
from vtokens.engine.record import Record
from vtokens.engine.stages.prompt import select
from vtokens.engine.state.cross_keys import Columns, CrossKeys
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.slots import fitted
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
    record = Record(layout, width, len(_crossing(adapter)), states.element_size(), text=fed.shape[1])
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


def _crossing(adapter: Adapter) -> tuple[int, ...]:
    """The decoder layers that attend to visual tokens outside the sequence."""
    return tuple(number for number, spec in enumerate(adapter.specs) if spec.kind == "cross")


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
    first = _crossing(adapter)[0]
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
    for number in _crossing(adapter):
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
    for number in _crossing(adapter):
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
