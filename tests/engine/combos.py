"""Attachments drawn from the registry: any strategies, every field of each from the values that it allows.

Nothing here knows a strategy by name: values come from a pool for the type that a field is annotated with, and a value
counts as allowed if the strategy can then be attached by itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

import vtokens
from tests.engine.cases import model
from vtokens.adapters import Adapter, adapter_for
from vtokens.engine.plan import Plan
from vtokens.strategies import Composition, Facts, Strategy
from vtokens.tables.patterns import AShape, Head, Patterns, Run
from vtokens.tables.sinks import Sinks
from vtokens.tables.thresholds import Table, TargetThresholds

POOLS: dict[Any, tuple[Any, ...]] = {
    bool: (False, True),
    # Layers, seeds, counts, lengths.
    int: (0, 1, 2, 3, 7, 500),
    # Shares, weights, thresholds; nothing that is a share exceeds 2.
    float: (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 2.0),
    str: ("random(keep=0.25)", "cls(keep=0.5)+fastv(keep=0.5, layer=2)", "vhr(layers=(1, 3))", "low", "mid", "high"),
    tuple[int | float, ...]: ((0.5,), (1, 2), (0.25, 0.5, 0.75)),
    tuple[int | float, int | float]: ((0.5, 0.75), (1, 3)),
    tuple[int, ...]: ((1,), (0, 2), (0, 1, 2, 3), (-2, -1)),
    tuple[float, ...]: ((0.5, 0.5, 0.5), (0.0,), (0.9, 2.0, 0.3)),
    tuple[tuple[tuple[float, ...], ...], ...]: (),  # maps of pictures, which belong to a call
}


def tables(facts: Facts, folder: Path) -> tuple[str, ...]:
    """Files of every kind that strategies read, made for one model so that they do something on it."""
    made: dict[str, Any] = {
        "sinks": Sinks(facts.decoder, (1, 5, 40), 1.6, "chosen at random"),
        "patterns": Patterns(
            facts.decoder, (16, 16), 0.01, "chosen by hand",
            ((Head(Run("none", AShape(4, 6)), density=0.5, score=0.1, recall=0.9),) * 4,) * facts.depth,
        ),
        "thresholds": Table(
            facts.tower, facts.tower_sample, "chosen by hand",
            tuple(TargetThresholds(target, target, (0.3,) * 3, (target,) * 3) for target in (0.15, 0.34, 0.68)),
        ),
    }  # fmt: skip
    for name, table in made.items():
        table.save(folder / f"{facts.family}-{name}.json")
    return tuple(str(folder / f"{facts.family}-{name}.json") for name in made)


def pool(kind: Any, files: tuple[str, ...]) -> tuple[Any, ...]:
    """Values of a type: those of all members of a union, the choices of a literal."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return tuple(itertools.chain.from_iterable(pool(part, files) for part in typing.get_args(kind)))
    if origin is typing.Literal:
        return typing.get_args(kind)
    if kind is type(None):
        return (None,)
    return POOLS[kind] + (files if kind is str else ())


def refusal(name: str, fields: dict[str, Any], adapter: Adapter) -> str | None:
    """Why a strategy with these values is refused on a model; None if it is not."""
    try:
        Plan(adapter, vtokens.strategies.parse(vtokens.strategies.get(name)(**fields)))
    except (ValueError, TypeError) as error:
        return str(error)
    return None


class Allowed:
    """What may be drawn for one model.

    Attributes:
        adapter: the model's.
        needed: strategy -> fields without which it does not run there.
        values: strategy -> field -> its allowed values, each taken alone beside what is needed.
        refused: strategies that no values let run there -> the reasons.
    """

    def __init__(self, family: str, folder: Path) -> None:
        self.adapter = adapter_for(model(family, "pruned"))
        files = tables(self.adapter.facts, folder)
        self.needed: dict[str, dict[str, Any]] = {}
        self.values: dict[str, dict[str, list[Any]]] = {}
        self.refused: dict[str, set[str]] = {}
        for name in vtokens.strategies():
            cls = vtokens.strategies.get(name)
            if issubclass(cls, Composition):  # which stands for others, and keeps what they keep
                continue
            hints = typing.get_type_hints(cls)
            pools = {field.name: pool(hints[field.name], files) for field in dataclasses.fields(cls) if field.init}
            trials = [{}, *({field: value} for field, values in pools.items() for value in values)]
            told: dict[str, str | None] = {}  # what was tried once is not tried again
            self._try(name, trials, told)
            if None not in told.values():  # some need a flag beside a value
                flags = [{field: value} for field in pools if hints[field] is bool for value in (False, True)]
                trials += [{**flag, **fields} for flag in flags for fields in trials[1:]]
                self._try(name, trials, told)
            needed = next((fields for fields in trials if told[repr(fields)] is None), None)
            if needed is None:
                self.refused[name] = set(filter(None, told.values()))
                continue
            self.needed[name] = needed
            self._try(name, [{**needed, field: value} for field, values in pools.items() for value in values], told)
            fit = {
                field: [value for value in values if told[repr({**needed, field: value})] is None]
                for field, values in pools.items()
            }
            self.values[name] = {field: values for field, values in fit.items() if values}

    def _try(self, name: str, trials: list[dict[str, Any]], told: dict[str, str | None]) -> None:
        for fields in trials:
            if repr(fields) not in told:
                told[repr(fields)] = refusal(name, fields, self.adapter)


@cache
def allowed(family: str, folder: Path) -> Allowed:
    """What may be drawn for a family's tiny model."""
    return Allowed(family, folder)


@st.composite
def attachments(draw: st.DrawFn, options: Allowed) -> tuple[Strategy, ...]:
    """Two or three different strategies, at most one of which contrasts logits: what else is refused, few are."""
    names = st.lists(st.sampled_from(sorted(options.values)), min_size=2, max_size=3, unique=True)
    contrasts = vtokens.strategies.list_strategies(stage="logits")
    chosen = draw(names.filter(lambda names: sum(name in contrasts for name in names) <= 1))
    return tuple(draw(strategies(options, name)) for name in chosen)


@st.composite
def strategies(draw: st.DrawFn, options: Allowed, name: str) -> Strategy:
    """One of the strategies called `name`, some of its fields left at their defaults."""
    fields = dict(options.needed[name])
    for field, values in options.values[name].items():
        if draw(st.booleans()):
            fields[field] = draw(st.sampled_from(values))
    hypothesis.assume(refusal(name, fields, options.adapter) is None)
    return vtokens.strategies.get(name)(**fields)
