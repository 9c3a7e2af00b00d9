"""Which keys of a decoder layer are padding, and which slots that its attention is given hold keys."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vtokens.engine.attention.tap import AttentionCall
from vtokens.engine.state.cache_layers import lengths, shortened, tracked
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.padding import join_padding
from vtokens.engine.state.slots import static_layer
from vtokens.engine.state.view import View


def cached_padding(lane: Lane, index: int) -> Tensor | None:
    """bool (B, past), the padding mask over what layer `index` had cached before this pass; None if there is none."""
    layer = shortened(lane.cache, index)
    if layer is not None:
        return layer.keymap.padding(lane.padding, lane.past)
    return lane.fed_before()


def present_padding(lane: Lane, index: int, past: int) -> Tensor | None:
    """`cached_padding` over the last `past` keys, those that attention is given with the new ones.

    How many a sliding window let go of is not asked of the layer, which may have been given the new ones by now.
    """
    mask = cached_padding(lane, index)
    return None if mask is None else mask[:, mask.shape[1] - past :]


def seen_padding(
    lane: Lane, index: int, past: int, length: int, view: View | None, device: torch.device
) -> Tensor | None:
    """bool (B, past + length), the padding mask over what layer `index` can see; None if there is none.

    Args:
        past: keys that attention sees before this pass.
        length: columns of this pass, those that `view` sees.
        view: None if it sees all that was fed.
        device: of what is returned.
    """
    mask = join_padding(present_padding(lane, index, past), lane.fed_now(view), past, length)
    return None if mask is None else mask.to(device)


def slots_seen(lane: Lane, index: int) -> int | None:
    """The slots that attention in layer `index` is given, where they are fixed; None where it is given keys alone."""
    if lane.cache is None or index >= len(lane.cache.layers) or index in lane.folds:
        return None
    there, inner = tracked(lane.cache, index), static_layer(lane.cache.layers[index])
    unfolded = there is not None and there.keymap.copies is not None
    return None if inner is None or unfolded else inner.max_cache_len


def filled(lane: Lane, index: int, attention: AttentionCall) -> AttentionCall:
    """An attention call of layer `index` over the keys there are, without slots that are not filled yet."""
    if lane.cache is None or static_layer(lane.cache.layers[index]) is None:
        return attention
    keys, mask = lengths(lane.cache, index).given, attention.mask
    if mask is not None and slots_seen(lane, index) is not None:
        mask = mask[..., :keys]
    return replace(attention, key=attention.key[:, :, :keys], value=attention.value[:, :, :keys], mask=mask)
