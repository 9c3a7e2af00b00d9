"""Signals by name, and the features of mentions."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from vtokens.core.errors import unknown
from vtokens.filter.signals.base import Signal, Spanned, Spans
from vtokens.filter.trace.trace import Parts, Trace, beside

_signals: dict[str, type[Signal]] = {}
S = TypeVar("S", bound=type[Signal])

SETS = ("fast", "full")
"""Signals that come almost free with the pass that reads or writes the response, and all but those `apart`."""


def register(name: str, *, paper: str = "", says: tuple[str, str] | tuple[()] = ()) -> Callable[[S], S]:
    """Class decorator that makes a signal available by name.

    says: what it says in words of a mention when it speaks for a hallucination, and when against.

    Raises:
        ValueError: another class has that name.
    """

    def add(cls: S) -> S:
        taken = _signals.get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"signal {name!r} is taken by {taken.__module__}.{taken.__qualname__}")
        cls.name, cls.paper, cls.says = name, paper, says
        _signals[name] = cls
        return cls

    return add


@cache
def _load() -> None:
    package = importlib.import_module("vtokens.filter.signals")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def list_signals() -> list[str]:
    """The names of all signals, sorted."""
    _load()
    return sorted(_signals)


def get_signals(names: str | Sequence[str | Signal]) -> tuple[Signal, ...]:
    """Signals by name.

    Args:
        names: "fast" (nothing beyond the pass that reads or writes the response), "full", a name, or a list of names
            and of signals with settings of their own.

    Raises:
        ValueError: an unknown name, or one named twice.
        TypeError: something that is neither.
    """
    _load()
    if isinstance(names, str) and names in SETS:
        every = [_signals[name]() for name in sorted(_signals) if not _signals[name].apart]
        return tuple(signal for signal in every if names == "full" or not (signal.passes or signal.heavy))
    chosen: list[Signal] = []
    if not isinstance(names, Sequence):
        raise TypeError(f"{names!r} is no signal: a name, or a list of names and Signals, is allowed")
    for name in [names] if isinstance(names, str) else names:
        if isinstance(name, Signal):
            chosen.append(name)
            continue
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is no signal: a name or a Signal is allowed")
        if name not in _signals:
            raise unknown("signal", name, [*_signals, *SETS])
        chosen.append(_signals[name]())
    for number, signal in enumerate(chosen):
        if any(signal.name == other.name for other in chosen[:number]):
            raise ValueError(f"signal {signal.name!r} is named twice: once is allowed")
    return tuple(chosen)


def parts_for(names: str | Sequence[str | Signal], depth: int) -> Parts:
    """What a trace must hold for these signals, in a model of `depth` decoder layers."""
    return Parts.union(signal.parts(depth) for signal in get_signals(names))


def features(
    trace: Trace, mentions: Sequence[Spanned], names: str | Sequence[str | Signal] = "fast"
) -> dict[str, list[float]]:
    """The numbers of every mention, by signal; a signal that gives several is there as name.something.

    Args:
        trace: the response, recorded for these signals (`parts_for`).
        mentions: with their tokens.
        names: as in `get_signals`.

    Raises:
        ValueError: an unknown signal, a mention without tokens, a trace that lacks what a signal reads.
    """
    return features_of([trace], [mentions], names)[0]


def features_of(
    traces: Sequence[Trace], mentions: Sequence[Sequence[Spanned]], names: str | Sequence[str | Signal] = "fast"
) -> list[dict[str, list[float]]]:
    """`features` of several answers that were recorded alike; what goes by token is computed of all of them at once.

    Args:
        traces: of each answer.
        mentions: of each answer, at least one in each.
        names: as in `get_signals`.

    Raises:
        ValueError: as `features`.
    """
    signals, spans = get_signals(names), [Spans(some, trace) for some, trace in zip(mentions, traces, strict=True)]
    each = list(zip(range(len(traces)), traces, spans, strict=True))
    whole = [(None, beside(traces), Spans.joined(spans))] if len(traces) > 1 else each
    columns: list[tuple[int | None, str, Tensor]] = []
    for signal in signals:
        # Said of the class itself: one that is made of it may read something else.
        together = vars(type(signal)).get("by_token")
        for number, trace, span in whole if together else each:
            columns += [(number, name, values) for name, values in signal.values(trace, span).items()]
    found: list[dict[str, list[float]]] = [{} for _ in traces]
    for (number, name, _), rest in zip(columns, _read([values for *_, values in columns]), strict=True):
        if number is not None:
            found[number][name] = rest
            continue
        for one, some in zip(found, mentions, strict=True):
            one[name], rest = rest[: len(some)], rest[len(some) :]
    return found


def _read(parts: Sequence[Tensor]) -> list[list[float]]:
    """The numbers of many signals, read from the device at once where they are of one kind."""
    if len({(part.dtype, part.device) for part in parts}) != 1:
        return [part.tolist() for part in parts]
    flat, sizes = torch.cat(list(parts)).tolist(), [part.numel() for part in parts]
    return [flat[end - size : end] for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)]
