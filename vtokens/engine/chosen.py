"""Strategies that are chosen for a model: what takes their place there, and why."""

from __future__ import annotations

from collections.abc import Iterable

from vtokens.adapters import Adapter
from vtokens.strategies import Choice, Strategy, format_spec, parse


def chosen(adapter: Adapter, strategies: Iterable[Strategy]) -> tuple[tuple[Strategy, ...], tuple[str, ...]]:
    """The strategies that run on a model, and a line for each that was chosen: what stands for what, and why.

    Raises:
        ValueError: one cannot be chosen for this model; says why.
    """
    found: list[Strategy] = []
    why: list[str] = []
    for strategy in strategies:
        if not isinstance(strategy, Choice):
            found.append(strategy)
            continue
        spec, reason = strategy.chosen(adapter.facts)
        parts = parse(spec, None if spec == "none" else getattr(strategy, "keep", None))
        found += parts
        why.append(f"{format_spec([strategy])} stands for {format_spec(parts)}: {reason}")
    return tuple(found), tuple(why)
