"""The mask of one decoder layer in one lane: who may see whom, counted in the positions that were fed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import and_masks, causal_mask_function

from vtokens.engine.attention.key_padding import seen_padding, slots_seen
from vtokens.engine.attention.masks import MaskFunction, layer_mask
from vtokens.engine.state.cache_layers import lengths, shortened
from vtokens.engine.state.folds import Fold
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.view import View


def lane_mask(lane: Lane, index: int, hidden: Tensor, fold: Fold | None = None) -> Any:
    """The mask of decoder layer `index` for states (B, W, D) that enter it.

    Args:
        fold: how merged tokens are unmerged in its attention; None if they are not.

    Raises:
        ValueError: the attention implementation counts a window that cuts in columns, not in fed positions.
    """
    layer, view = shortened(lane.cache, index), lane.view if fold is None else fold.view
    past, length = lengths(lane.cache, index).present, hidden.shape[1] if fold is None else fold.member.shape[1]
    window, slots = lane.windows.get(index), slots_seen(lane, index)

    def make() -> Any:
        config, rule = lane.adapter.language_model.config, None
        if window is not None:
            if "flash" in str(config._attn_implementation):
                raise ValueError(
                    f"{config._attn_implementation!r} cuts a sliding window of {window} by rows, of which some were "
                    "dropped: use attn_implementation='sdpa', or keep prompt and answer shorter than the window"
                )
            rule = in_window(window, *query_key_positions(lane, index, past, length, view, hidden.device), past)
            rule = and_masks(causal_mask_function, rule) if lane.both_ways is None else rule
        if lane.both_ways is not None:
            rule = to_stretch_end(lane.both_ways.until(view, hidden.device), past, rule)
        allowed = seen_padding(lane, index, past, length, view)
        allowed = None if allowed is None else allowed.to(hidden.device)
        return layer_mask(config, hidden, past, allowed, length, rule, slots)

    # Layers whose keys were dropped together, and that see the same of this pass, share one mask.
    origin = None if layer is None else layer.keymap.origin
    return lane.once(("mask", past, origin, view, window, slots, hidden.device), make)


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


def in_window(window: int, queries: Tensor, keys: Tensor, past: int) -> MaskFunction:
    """Attention over a window that is counted in fed positions, whatever was dropped between them."""

    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        at = queries[batch if len(queries) > 1 else 0, query - past]
        # Slots that are not filled yet come after all queries, so that causal attention closes them.
        return at - keys[batch if len(keys) > 1 else 0, key.clamp(max=keys.shape[1] - 1)] < window

    return rule


def to_stretch_end(until: Tensor, past: int, within: MaskFunction | None) -> MaskFunction:
    """Attention to all columns before, and behind to those of the own stretch: up to column `until` (B, W) of a pass.

    A window, if there is one, cuts both.
    """

    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        sees = key <= until[batch, query - past] + past
        return sees if within is None else sees & within(batch, head, query, key)

    return rule
