"""Attention masks for layers that see fewer positions than were fed: who sees whom, counted in fed positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, and_masks, causal_mask_function, or_masks

from vtokens.engine.attention.key_padding import seen_padding, slots_seen
from vtokens.engine.attention.renumber import renumber
from vtokens.engine.state.cache_layers import lengths, shortened
from vtokens.engine.state.folds import Fold
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.slots import static_layer
from vtokens.engine.state.tracked_layer import TrackedLayer
from vtokens.engine.state.view import View

MaskFunction = Callable[[Any, Any, Any, Any], Any]
"""Of batch, head, query and key indices: whether the query attends to the key, as transformers has it."""


def layer_mask(
    config: Any,
    hidden: Tensor,
    past: int,
    allowed: Tensor | None,
    length: int | None = None,
    rule: MaskFunction | None = None,
    slots: int | None = None,
) -> Any:
    """The mask of one layer in the form its attention implementation wants, by transformers' own mask functions.

    Args:
        config: the decoder's config; its `_attn_implementation` decides the form.
        hidden: (B, W, D) states entering the layer.
        past: positions that attention sees before them.
        allowed: bool (B, past + W), False on padding; None if there is none.
        length: positions that attention works on; default W, as many as enter.
        rule: which query sees which key; None is causal.
        slots: keys that attention is given, those not filled yet included; default all that it sees.
    """
    if config._attn_implementation not in ALL_MASK_ATTENTION_FUNCTIONS:
        return None  # as transformers does for an attention function registered without a mask function
    batch = len(hidden)
    length = hidden.shape[1] if length is None else length
    return ALL_MASK_ATTENTION_FUNCTIONS[config._attn_implementation](
        batch_size=batch,
        q_length=length,
        kv_length=past + length if slots is None else slots,
        q_offset=past,
        kv_offset=0,
        mask_function=causal_mask_function if rule is None else rule,
        attention_mask=allowed,
        allow_is_causal_skip=rule is None,
        dtype=hidden.dtype,
        config=config,
        use_vmap=False,
        device=hidden.device,
    )


def lane_mask(lane: Lane, index: int, hidden: Tensor, fold: Fold | None = None) -> Any:
    """The mask of decoder layer `index` for states (B, W, D) that enter it.

    Args:
        fold: how merged tokens are unmerged in its attention; None if they are not.

    Raises:
        ValueError: the attention implementation counts a window that cuts in columns, not in fed positions.
    """
    layer, view = shortened(lane.cache, index), lane.view if fold is None else fold.view
    past, length = lengths(lane.cache, index).present, hidden.shape[1] if fold is None else fold.member.shape[1]
    window, slots, both_ways = lane.windows.get(index), slots_seen(lane, index), lane.both_ways_at(index)

    def make() -> Any:
        config, rule = lane.adapter.language_model.config, None
        if window is not None:
            if "flash" in str(config._attn_implementation):
                raise ValueError(
                    f"{config._attn_implementation!r} cuts a sliding window of {window} by rows, of which some were "
                    "dropped: use attn_implementation='sdpa', or keep prompt and answer shorter than the window"
                )
            rule = in_reach(lane, index, *query_key_positions(lane, index, past, length, view, hidden.device), past)
            if both_ways is None or both_ways.whole:
                rule = and_masks(causal_mask_function, rule)
        if both_ways is not None and both_ways.whole and rule is not None:
            rule = or_masks(rule, in_stretch(both_ways.seen(view, hidden.device), past))
        elif both_ways is not None and both_ways.apart:
            rule = or_masks(causal_mask_function, in_stretch(both_ways.seen(view, hidden.device), past))
        elif both_ways is not None:
            rule = to_stretch_end(both_ways.until(view, hidden.device), past, rule)
        allowed = seen_padding(lane, index, past, length, view, hidden.device)
        return layer_mask(config, hidden, past, allowed, length, rule, slots)

    # Layers whose keys were dropped together, and that see the same of this pass, share one mask.
    origin = None if layer is None else layer.keymap.origin
    return lane.once(("mask", past, origin, view, window, slots, both_ways is None, hidden.device), make)


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
    return lane.once(("step", held, window, spec.rope, lane.both_ways_at(index) is None, lane.hidden.device), make)


def query_key_positions(
    lane: Lane, index: int, past: int, length: int, view: View | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Fed positions of the queries, int64 (B or 1, W), and of the keys, (B or 1, past + W), that attention is handed.

    Where heads hold different keys, those of the keys are (B, H_kv, past + W).

    Args:
        past: keys before this pass, the last of all there are.
        length: columns of this pass, those that `view` sees.
        view: None if it sees all that was fed.
        device: of what is returned.
    """
    layer = shortened(lane.cache, index)
    before = torch.arange(lane.past, device=device)[None]
    before = before if layer is None else layer.keymap.positions(lane.past, device)
    before = before[..., before.shape[-1] - past :]
    now = torch.arange(length, device=device)[None] if view is None else view.index.to(device)
    now = now + lane.past
    batch, heads = max(len(before), len(now)), before.shape[1:-1]
    after = now.view(len(now), *[1] * len(heads), length)
    return now, torch.cat([before.expand(batch, *heads, -1), after.expand(batch, *heads, -1)], -1)


def in_reach(lane: Lane, index: int, queries: Tensor, keys: Tensor, past: int) -> MaskFunction:
    """Attention over the window, or in the chunk, of decoder layer `index`, counted in fed positions.

    Whatever was dropped between them.

    Args:
        queries: int64 (B or 1, W), fed positions of the queries.
        keys: int64 (B or 1, past + W), those of the keys.
        past: keys before this pass.
    """
    window = lane.windows[index]
    chunked = lane.specs[index].kind == "chunked"
    if chunked:
        queries, keys = chunks(lane, window, queries), chunks(lane, window, keys)

    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        at = queries[batch if len(queries) > 1 else 0, query - past]
        # Slots that are not filled yet come after all queries, so that causal attention closes them.
        of = keys[batch if len(keys) > 1 else 0, key.clamp(max=keys.shape[1] - 1)]
        return at == of if chunked else at - of < window

    return rule


def chunks(lane: Lane, size: int, positions: Tensor) -> Tensor:
    """int64 (B, K): the number of the chunk that each fed position (B or 1, K) is in; padding on the left is in none.

    transformers counts chunks from the first token of a row that is real.
    """
    if lane.padding is None:
        return positions // size
    first = (~lane.padding).long().cumprod(1).sum(1, keepdim=True)
    return (positions - first.to(positions.device)) // size


def in_stretch(ids: Tensor, past: int) -> MaskFunction:
    """Attention within each stretch of a pass, by the stretches (B, W) of its columns, below 0 where there is none."""

    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        mine, now = ids[batch, query - past], key - past
        same = mine == ids[batch, now.clamp(min=0, max=ids.shape[1] - 1)]
        return same & (mine >= 0) & (now >= 0) & (now < ids.shape[1])

    return rule


def to_stretch_end(until: Tensor, past: int, within: MaskFunction | None) -> MaskFunction:
    """Attention to all columns before, and behind to those of the own stretch: up to column `until` (B, W) of a pass.

    A window, if there is one, cuts both.
    """

    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        sees = key <= until[batch, query - past] + past
        return sees if within is None else sees & within(batch, head, query, key)

    return rule
