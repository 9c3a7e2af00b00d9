"""Which caches can hold sequences whose length differs from layer to layer."""

from __future__ import annotations

from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from vtokens.engine.state.tracked_layer import TrackedLayer


def check_cache(cache: Cache | None) -> None:
    """Raise `ValueError` if `cache` cannot hold layers of different lengths."""
    if cache is None:
        return
    for layer in cache.layers:
        # Those of a window hold all of a sequence that is shorter than it (`window`).
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, TrackedLayer):
            raise ValueError(
                f"a {type(layer).__name__} in a {type(cache).__name__} cannot hold pruned sequences, whose length "
                "differs from layer to layer, nor what strategies note about them: use the default DynamicCache (no "
                "cache_implementation, no compiled or quantised cache), or detach() the strategy"
            )
