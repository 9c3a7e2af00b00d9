"""Sliding windows: layers that look back over so many positions only. A window that cuts nothing is no window."""

from __future__ import annotations

from typing import Any


def check_window(config: Any, positions: int) -> None:
    """Raise `ValueError` if layers of a decoder may not look back over all of a sequence.

    What is dropped and reweighed is worked out for attention over all earlier positions. As long as a sequence is
    shorter than the window, that is what every layer has, and cache layers of a window hold all of it.

    Args:
        config: the decoder's.
        positions: of the sequence, as it was fed, those of the pass under way included.
    """
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    # As transformers' caches read a config: without types, a window is that of all layers.
    if window is not None and positions >= window and (kinds is None or "sliding_attention" in kinds):
        raise ValueError(
            f"this decoder has layers of sliding_window={window}, and the sequence came to {positions} positions: "
            "a strategy cannot act where a window cuts. Keep prompt and answer shorter than the window (fewer tokens, "
            "a smaller picture), or detach() the strategy"
        )
