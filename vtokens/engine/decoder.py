"""Decoder layers that see less than was fed: their masks, their positions, and what their cache stored."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vtokens.core.compat import given_cache
from vtokens.engine.cache import Prefix, ReducedLayer, held, seen_length, stored_length
from vtokens.engine.call import Call
from vtokens.engine.fold import Fold, copies_after, fold_now
from vtokens.engine.masks import join, layer_mask
from vtokens.engine.padding import cached_padding, fed_now, padding, reduced_layer
from vtokens.engine.reduction import View, expand, gather, groups
from vtokens.engine.unmerge import unturned
from vtokens.strategies.views.heads import Memory


def adjust(call: Call, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The keyword arguments of decoder layer `index`, cut to what it sees; None if they are right as they are."""
    cache = given_cache(kwargs)
    reduced = reduced_layer(cache, index)
    if call.view is None and reduced is None:
        return None
    kwargs = dict(kwargs)
    if call.view is not None:
        call.by_layer[index] = call.view
        # Only packed-sequence detection reads them here, and gaps in them look like packing.
        kwargs["position_ids"] = None
    if call.rows is not None:
        kwargs["position_embeddings"] = _position_embeddings(call, kwargs["position_embeddings"])
    fold = fold_now(call)
    if fold is not None:
        call.folds[index] = fold
        kwargs["position_embeddings"] = unturned(kwargs["position_embeddings"])
    if fold is not None or call.view is not call.entry or call.past or reduced is not None:
        kwargs["attention_mask"] = own_mask(call, index, cache, hidden, fold)
    return kwargs


def account(call: Call, cache: Any) -> None:
    """Tell the cache layers that stored less than was fed."""
    assert call.fed_layout is not None
    for index in sorted({*call.by_layer, *call.memories}):
        view = call.by_layer.get(index)
        new = call.length if view is None else view.index.shape[1]
        stored, older, fold = stored_length(cache, index), held(cache, index), call.folds.get(index)
        past, length = seen_length(cache, index) - new, new if fold is None else fold.member.shape[1]
        memory = older.prefix.memory if older is not None else Memory()
        memory = memory.followed_by(call.memories.get(index, Memory()), past, length)
        if view is not None or reduced_layer(cache, index) is not None:
            seen = view if fold is None else fold.view
            after = fed_now(call) if seen is None else seen.mask(fed_now(call))
            valid = join(cached_padding(call, index, cache), after, past, length)
            copies = copies_after(call, index, cache, new, valid)
            group = next(groups) if view is None else view.group
            prefix = Prefix(stored, call.past + call.length, valid, call.fed_layout.tail, group, memory, copies)
        else:  # nothing was dropped here, so all of it may be cropped again
            prefix = Prefix(stored, stored, None, stored, 0, memory)
        cache.layers[index] = ReducedLayer.adopt(cache.layers[index], prefix)


def restore(call: Call, output: Any) -> Any:
    """The language model's output with all hidden states at the length that was fed."""
    assert call.view is not None
    depth = len(call.adapter.layers)
    # Entry 0 is the input of the first layer, entry i the output of layer i - 1.
    views = [call.entry, *(call.by_layer.get(index) for index in range(depth))]
    folds = [call.folds.get(0), *(call.folds.get(index) for index in range(depth))]
    last = _full(call, output[0], call.view, folds[-1])

    def full(states: Any) -> Any:
        return tuple(_full(call, *parts) for parts in zip(states, views, folds, strict=True))

    if isinstance(output, tuple):  # return_dict=False; nothing but hidden states comes as a tuple
        return (last, *(full(part) if isinstance(part, tuple) else part for part in output[1:]))
    output.last_hidden_state = last
    if output.get("hidden_states") is not None:
        output.hidden_states = full(output.hidden_states)
    return output


def _full(call: Call, state: Tensor, view: View | None, fold: Fold | None) -> Tensor:
    """States (B, W, D) at the length that was fed; merged tokens stand at all of their positions."""
    if view is None:
        return state
    copies = None if fold is None else (fold.view.index, fold.member)
    return expand(state, view, call.length, copies)


def _position_embeddings(call: Call, embeddings: Any) -> Any:
    """(cos, sin) of the rows still seen, from those the language model made at its input."""
    assert call.view is not None
    assert call.rows is not None
    key = ("positions", call.view.group)
    if key not in call.scratch:
        call.scratch[key] = tuple(gather(part, call.rows, part.dim() - 2) for part in embeddings)
    return call.scratch[key]


def own_mask(call: Call, index: int, cache: Any, hidden: Tensor, fold: Fold | None = None) -> Any:
    """The mask of decoder layer `index` for states (B, W, D) that enter it."""
    reduced, view = reduced_layer(cache, index), call.view if fold is None else fold.view
    past, length = seen_length(cache, index), hidden.shape[1] if fold is None else fold.member.shape[1]
    # Layers that were reduced together share one mask.
    key = ("mask", past, reduced.prefix.group if reduced else 0, view.group if view else 0)
    if key not in call.scratch:
        allowed = padding(call, index, view, past, length, cache)
        allowed = None if allowed is None else allowed.to(hidden.device)
        call.scratch[key] = layer_mask(call.adapter.language_model.config, hidden, past, allowed, length)
    return call.scratch[key]
