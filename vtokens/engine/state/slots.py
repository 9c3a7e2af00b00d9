"""Static caches: what the fixed slots of a cache layer stand for, and room for no more than is kept.

A picture: a layer of six slots; five positions were fed, two of them dropped before it; then two more came.

    fed position   0   1   2   3   4 | 5   6
    slot           0   1           2 | 3   4   5        at = [0, 1, 4, 5, 6, 7], ahead = 2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, StaticLayer, StaticSlidingWindowLayer

_STEP = 16
"""Slots that a layer is given at a time, so that prompts which keep about as much find the same shapes compiled."""


class StaticWindowLayer(StaticLayer):
    """A static layer with a sliding window that lets go of no key: masks count the window, in fed positions.

    transformers' own keeps so many keys as the window is wide, and cannot know of positions that have none.
    """

    is_sliding = True


@dataclass(frozen=True, eq=False)
class Slots:
    """The slots of a static cache layer that holds fewer keys than positions were fed; tensors only, so that a compiled
    step has nothing to compile anew for another prompt.

    Attributes:
        at: int64 (B, S), the fed position of each slot, filled by now or later; -1 on padding.
        ahead: int64 (), by how much fed positions run ahead of slots.
    """

    at: Tensor
    ahead: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Slots:
        """The slots of other samples; `change` acts on the batch dimension."""
        return replace(self, at=change(self.at))


def places(at: Tensor, valid: Tensor | None, fed: int, size: int) -> Tensor:
    """int64 (B, size), the fed position of each key that a layer holds, or is still to hold; -1 on padding.

    Args:
        at: int64 (B, K), those of the first keys.
        valid: bool (B, K), False on padding; None if there is none.
        fed: positions that these were left of; each later one has a key.
        size: keys.
    """
    at = at if valid is None else torch.where(valid.to(at.device), at, -1)
    later = torch.arange(fed, fed + size - at.shape[1], device=at.device)
    return torch.cat([at, later.expand(len(at), -1)], 1)


def mask_at(at: Tensor, fed: Tensor) -> Tensor:
    """(B, 1, W, S), which keys each query sees, from the mask (B or 1, 1, W, F) over fed positions.

    Args:
        at: int64 (B, S), the fed position of each key; -1 on padding.
        fed: bool, True where a query sees a position, or what is added to its score.
    """
    at = at.to(fed.device)
    real = ((at >= 0) & (at < fed.shape[-1]))[:, None, None]
    where = at.clamp(0, fed.shape[-1] - 1)[:, None, None].expand(-1, -1, fed.shape[2], -1)
    seen = fed.expand(len(at), -1, -1, -1).gather(3, where)
    return seen & real if seen.dtype == torch.bool else seen.masked_fill(~real, torch.finfo(seen.dtype).min)


def static_layer(layer: Any) -> StaticLayer | None:
    """A cache layer whose slots are fixed; None if it grows."""
    inner = getattr(layer, "inner", layer)
    return inner if isinstance(inner, StaticLayer) else None


def keep_all(cache: Cache | None, windows: Sequence[int | None]) -> None:
    """Let the static layers of `cache` that have a sliding window, and hold nothing yet, keep all that they are fed.

    Args:
        cache: what the decoder appends to; None if nothing is cached.
        windows: of each decoder layer. One that is shorter than the room of its layer is known by layers without.
    """
    layers: list[Any] = [] if cache is None else cache.layers
    sliding = [index for index, layer in enumerate(layers) if type(layer) is StaticSlidingWindowLayer]
    empty = [index for index in sliding if not int(layers[index].get_seq_length())]
    if not empty:
        return
    rooms = [int(layer.get_max_length()) for layer in layers if type(static_layer(layer)) is StaticLayer]
    for index in empty:
        window, room = windows[index], max(rooms, default=layers[index].max_cache_len)
        if rooms or window is None or room < window:
            layers[index] = StaticWindowLayer(max_cache_len=room)


def keeps_all(cache: Cache | None, layer: int) -> bool:
    """Whether layer `layer` of `cache` has a sliding window, and fixed slots for all that it is fed."""
    layers = [] if cache is None else cache.layers
    return layer < len(layers) and isinstance(static_layer(layers[layer]), StaticWindowLayer)


def fitted(layer: StaticLayer, needed: int, rooms: dict[int, int], index: int) -> StaticLayer:
    """A static layer with room for `needed` keys in the place of one that holds nothing and has more; else `layer`.

    Shapes that stay the same are compiled once; those that do not, no more than twice.

    Args:
        layer: as the caller of the model made it.
        needed: keys of this prompt and of the steps behind it.
        rooms: decoder layer -> the slots that it was given last; noted here.
    """
    before = rooms.get(index, needed)
    needed = -(-before // _STEP) * _STEP if needed <= before else layer.max_cache_len
    kind = type(layer)
    if kind in (StaticLayer, StaticWindowLayer) and not layer.is_initialized and needed < layer.max_cache_len:
        layer = kind(max_cache_len=needed)
    rooms[index] = layer.max_cache_len
    return layer
