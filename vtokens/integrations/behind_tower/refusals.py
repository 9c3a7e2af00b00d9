"""What cannot run where another engine runs the decoder, said with the reason and what can."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from vtokens.strategies import Needs, Strategy, format_spec
from vtokens.strategies.signals import OfTower, Sensitivity
from vtokens.strategies.video_pruner import VideoPruner

_STAGES = {
    "pixels": "shows the vision tower less of a picture, but pixels are prepared, and room for their tokens reserved, "
    "before the strategy could act",
    "encode": "merges tokens inside the vision tower, which is code of the engine",
    "rows": "lets visual tokens pass decoder layers, which are code of the engine",
    "attend": "acts inside the attention of the decoder, which runs in kernels of the engine",
    "states": "adds to states inside the decoder, which is code of the engine",
    "cache": "drops cached keys, but a sequence has one slot of the cache for each token in every layer",
    "logits": "compares logits with those of a second prompt, and the engine runs one prompt a request",
}
_LAYER = "drops tokens inside the decoder, but a sequence has one slot of the cache for each token in every layer"
BEFORE = (
    "tokens are chosen before the prompt is known, once a picture, and what was chosen is cached and shared by all "
    "prompts with that picture"
)
_OTHERS = (None, 0)
"""Values that switch a stage off, where a field allows them."""


def check_early(strategies: Iterable[Strategy]) -> None:
    """Raise `ValueError` for strategies whose kind alone says that they cannot run, before they read any file."""
    for strategy in strategies:
        name = format_spec([strategy])
        if isinstance(strategy, VideoPruner):
            raise ValueError(f"{name!r} acts on videos, and engines are handed pictures here")
        for stage in strategy.stages():
            if stage in _STAGES and not strategy._keeps_all:
                raise ValueError(f"{name!r} {_STAGES[stage]}")


def refuse(strategy: Strategy, needs: Needs) -> None:
    """Raise `ValueError` if a strategy needs what there is not between the vision tower and the decoder."""
    name = format_spec([strategy])
    if needs.layer:
        raise ValueError(f"{name!r} {_LAYER}")
    if needs.unmerges or needs.sizes or strategy.modifies:
        raise ValueError(f"{name!r} has attention count kept tokens for several, and kernels of the engine do not")
    other = [signal for signal in needs.signals if not isinstance(signal, OfTower)]
    if other:
        why = "the projector is code of the engine" if isinstance(other[0], Sensitivity) else BEFORE
        raise ValueError(f"{name!r} reads {type(other[0]).__name__}: {why}")
    if getattr(strategy, "keep", None) is None:
        raise ValueError(
            f"{name!r} decides itself how many tokens stay, but room is reserved before the vision tower runs: give it "
            "a keep"
        )
    if getattr(strategy, "budget", None) == "global" or strategy.grouping == "sample":
        raise ValueError(
            f"{name!r} shares one budget among the pictures of a prompt, but each picture is chosen from by itself, "
            "and cached: budget='per_image' is allowed"
        )


def hinted(error: ValueError, strategies: Sequence[Strategy], runs: Callable[[Strategy], bool]) -> ValueError:
    """The error with what can run in its place: the same strategy with a stage switched off.

    Args:
        error: why one of them cannot.
        strategies: all of them.
        runs: whether a strategy can.
    """
    if len(strategies) != 1:
        return error
    (strategy,) = strategies
    for field in dataclasses.fields(strategy):
        for value in _OTHERS:
            if field.name == "keep" or getattr(strategy, field.name) in (value, False):
                continue
            try:
                other = dataclasses.replace(strategy, **{field.name: value})
            except (TypeError, ValueError):
                continue
            if runs(other):
                return ValueError(f"{error}; {format_spec([other])!r} can run")
    return error
