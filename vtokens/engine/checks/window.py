"""Sliding windows and chunks: layers that look back over so many positions only. What cuts nothing is none."""

from __future__ import annotations

from collections.abc import Sequence

from vtokens.adapters import Adapter
from vtokens.adapters.layers import LayerSpec
from vtokens.engine.plan import Plan
from vtokens.strategies.views.logits import Tokens


def cutting_windows(specs: Sequence[LayerSpec], positions: int) -> dict[int, int]:
    """Decoder layer -> its window, or the size of its chunks, where that cuts into so many fed positions."""
    return {
        index: spec.window for index, spec in enumerate(specs) if spec.window is not None and positions >= spec.window
    }


def check_window(adapter: Adapter, plan: Plan, positions: int, pictures: bool) -> None:
    """Raise `ValueError` if a strategy does something that is not worked out for windows that cut.

    Dropping tokens is: what a layer sees is counted in fed positions, as the model counts them. What reweighs
    attention, unmerges tokens in it, or runs a second sequence is worked out for attention over all earlier positions.

    Args:
        positions: of the sequence, as it was fed, those of the pass under way included.
        pictures: whether that pass brings any: only then is attention read, for their tokens.
    """
    windows = cutting_windows(adapter.specs, positions)
    if not windows:
        _check_counted(adapter, plan, positions)
        return
    several = {
        index
        for index, signals in plan.observed.items()
        if pictures and any(signal.rows != "last" for signal in signals)
    }
    inside = sorted(windows.keys() & ({*plan.at_attend} | several))
    why = None
    if inside:
        why = f"a strategy acts inside the attention of layer {inside[0]}, or reads it for several queries"
    elif plan.at_cache:
        why = "a strategy drops keys of the cache"
    elif plan.compact:
        why = "a strategy numbers positions anew (positions='compact'), by which a window would be counted"
    elif plan.unmerges or plan.sizes or plan.text_lane or plan.contrast is not None:
        why = "a strategy that unmerges tokens, weighs them, or compares with a second sequence, needs the whole prompt"
    if why is not None:
        raise ValueError(
            f"this decoder has layers of {_named(adapter.specs, windows)}, and the sequence came to {positions} "
            f"positions: a window cuts, and {why}. Keep prompt and answer shorter than that (fewer tokens, a smaller "
            "picture), or detach() the strategy"
        )


def check_no_window(adapter: Adapter, positions: int) -> None:
    """Raise `ValueError` if a window cuts into the second sequence of a contrast, which may be the longer one."""
    windows = cutting_windows(adapter.specs, positions)
    if windows:
        raise ValueError(
            f"this decoder has layers of {_named(adapter.specs, windows)}, and the negative prompt came to "
            f"{positions} positions, where a window cuts: keep both prompts shorter than that, or detach() the strategy"
        )


def _named(specs: Sequence[LayerSpec], windows: dict[int, int]) -> str:
    """The widest window that cuts, as the decoder's config calls it."""
    index, size = max(windows.items(), key=lambda item: item[1])
    return f"{'attention_chunk_size' if specs[index].kind == 'chunked' else 'sliding_window'}={size}"


def _check_counted(adapter: Adapter, plan: Plan, positions: int) -> None:
    """Raise `ValueError` if layers scale queries by rows that they count, and rows are not the positions."""
    floors = [spec.tempered[0] for spec in adapter.specs if spec.tempered is not None]
    if not floors or positions < min(floors):
        return
    how, negative = None, None if plan.contrast is None else plan.contrast.negative
    if plan.compact:
        how, out = "a strategy numbers positions anew (positions='compact')", "Leave positions='compact' out"
    elif isinstance(negative, Tokens) and not negative.blank and negative.arrange is None:
        how, out = (
            "tokens are dropped from the prompt that it is held against",
            "Take a contrast that drops none ('vcd')",
        )
    if how is not None:
        raise ValueError(
            f"layers of this decoder scale queries by their positions from floor_scale={min(floors)} on, and the "
            f"sequence came to {positions}: {how}, of which these layers are not told. {out}, or keep prompt and "
            "answer shorter than that"
        )
