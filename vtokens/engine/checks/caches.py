"""Which caches can hold sequences whose length differs from layer to layer."""

from __future__ import annotations

from typing import Any

from transformers import cache_utils
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticLayer,
    StaticSlidingWindowLayer,
)

from vtokens.engine.attention.sizes import holds_sizes
from vtokens.engine.plan import Plan
from vtokens.engine.state.cache_layers import holds_keys, tracked_layers
from vtokens.engine.state.slots import StaticWindowLayer, static_layer
from vtokens.engine.state.tracked_layer import TrackedLayer

_SHARED = getattr(cache_utils, "DummyLayer", None)
"""Of decoder layers that attend to keys of earlier ones, and hold none."""
_KINDS = {
    *(DynamicLayer, StaticLayer, StaticWindowLayer),
    DynamicSlidingWindowLayer,  # holds all of a sequence that is shorter than its window (`window`)
    # Releases of transformers differ in which of these they have; one of linear attention has a state in place of keys.
    *(getattr(cache_utils, f"{name}QuantizedLayer", StaticLayer) for name in ("Fp8", "HQQ", "Quanto")),
    getattr(cache_utils, "LinearAttentionLayer", StaticLayer),
}


def check_cache(cache: Cache | None, config: Any, fed: int) -> None:
    """Raise `ValueError` if `cache` cannot hold layers of different lengths.

    Args:
        cache: what the decoder appends to; None if nothing is cached.
        fed: positions fed once this pass ends.
    """
    layers: list[Any] = [] if cache is None else cache.layers
    for layer in layers:
        inner = layer.inner if isinstance(layer, TrackedLayer) else layer
        if type(inner) is _SHARED:
            if static_layer(layers[0]) is not None:
                raise ValueError(
                    f"layers share their keys in this {type(cache).__name__}, whose slots would not be theirs where "
                    "tokens are dropped: use the default DynamicCache, or detach() the strategy"
                )
            continue
        if type(inner) is StaticSlidingWindowLayer:  # one that was not let keep all (`slots.keep_all`)
            why = (
                f"it has let go of keys already, or may have, when {int(inner.get_seq_length())} positions were fed"
                if inner.get_seq_length()
                else "no layer of its cache is without a window, so that nothing says how many positions it is to hold"
            )
            raise ValueError(
                f"a {type(inner).__name__} has {inner.max_cache_len} slots for keys that follow each other, and where "
                f"tokens are dropped their window is counted in other positions; {why}: begin with an empty "
                "StaticCache, of a model that has other layers too, or use the default DynamicCache (no "
                "cache_implementation), or detach() the strategy"
            )
        if type(inner) not in _KINDS:
            raise ValueError(
                f"a {type(inner).__name__} in a {type(cache).__name__} cannot hold pruned sequences, whose length "
                "differs from layer to layer, nor what strategies note about them: use the default DynamicCache (no "
                "cache_implementation), a StaticCache or a QuantizedCache, or detach() the strategy"
            )
        if static_layer(inner) is None:
            continue
        if config._attn_implementation not in ("sdpa", "eager"):
            raise ValueError(
                f"attn_implementation={config._attn_implementation!r} gives no mask that can be cut to the slots of a "
                "static cache: use 'sdpa' or 'eager', or a DynamicCache, or detach() the strategy"
            )
        room = layer.get_max_length()
        if fed > room:
            raise ValueError(
                f"this static cache has room for {room} positions, and {fed} are fed: make it with "
                f"max_cache_len={fed} and as many more as are to be generated"
            )


def check_evictable(cache: Cache | None) -> None:
    """Raise `ValueError` if keys cannot be dropped from `cache` once they are in it."""
    for index, layer in enumerate(() if cache is None else cache.layers):
        inner = layer.inner if isinstance(layer, TrackedLayer) else layer
        if holds_keys(cache, index) and type(inner) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise ValueError(
                f"a {type(inner).__name__} holds its keys in fixed slots, or packed, so that none can be dropped once "
                "they are there: use the default DynamicCache, or detach() the strategy"
            )


def check_continued(plan: Plan, cache: Cache | None) -> None:
    """Raise `ValueError` if only another plan than this one knows how to attend to the keys in `cache`."""
    if not plan.sizes and not plan.at_cache and holds_sizes(cache):
        raise ValueError(
            "this cache holds tokens that count for several in attention, or for some heads only: attach the strategy "
            "that made them so again, or start with an empty cache"
        )
    if not plan.unmerges and any(layer.keymap.copies is not None for layer in tracked_layers(cache)):
        raise ValueError(
            "this cache holds merged tokens, which attention has to see at all of their positions: attach the "
            "strategy that merged them again, or start with an empty cache"
        )
