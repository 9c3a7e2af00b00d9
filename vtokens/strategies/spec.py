"""Strategies as text and data: `"cls(keep=0.25)+fastv(layer=3)"`, dicts and JSON, each way."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from vtokens.core.budget import Keep, check_keep
from vtokens.core.errors import shorten, unknown
from vtokens.strategies.base import Strategy
from vtokens.strategies.composition import Choice, Composition
from vtokens.strategies.fields import checked
from vtokens.strategies.grammar import EXAMPLE, terms
from vtokens.strategies.options import StrategyOptions
from vtokens.strategies.registry import get
from vtokens.strategies.video_pruner import VideoPruner

Spec = str | Strategy | Mapping[str, Any] | Sequence[Any] | None
"""Anything that names one or several strategies; None and "none" name no strategy at all."""

_MOST = 32  # strategies of one spec, and lists inside each other


def parse(spec: Spec, keep: Keep | None = None, **options: Unpack[StrategyOptions]) -> tuple[Strategy, ...]:
    """The strategies that `spec` names, in the written order; those of a `Composition` in its place.

    Args:
        spec: a string, a strategy, a dict `{"name": ..., **fields}`, or a sequence of these.
        keep: sets the `keep` of the one strategy that takes it and was not given one; of a temporal pruner (of videos,
            a `VideoPruner`) and a spatial one behind it, the share that both together leave.
        options: further fields, for a single strategy.

    Raises:
        TypeError: a value of another kind.
        ValueError: unknown names or fields, bad syntax, a `keep` that nobody or more than one could take.
    """
    drafts = _drafts(spec)
    if len(drafts) > _MOST:
        raise ValueError(f"{len(drafts)} strategies at once: {_MOST} are allowed")
    if options:
        if len(drafts) != 1:
            raise ValueError(f"options {shorten(sorted(options))} need a single strategy, got {len(drafts)}: {EXAMPLE}")
        drafts[0][1].update(options)
    if keep is not None:
        if not (takers := _takers(drafts)):
            given = [f"{cls.name} has keep={shorten(fields['keep'])}" for cls, fields in drafts if "keep" in fields]
            own = f" ({', '.join(given)} already)" if given else ""
            raise ValueError(f"keep={shorten(keep)} has no strategy to take it{own}: {EXAMPLE}")
        _give(takers, keep)
    return tuple(part for cls, fields in drafts for part in _parts(_build(cls, fields)))


def _parts(strategy: Strategy) -> tuple[Strategy, ...]:
    """The strategies that a composition stands for; any other stands for itself, and so does what a model decides."""
    if isinstance(strategy, Choice) or not isinstance(strategy, Composition):
        return (strategy,)
    return parse(strategy.spec())


def open_keeps(spec: Spec) -> list[str]:
    """Names of the strategies in `spec` that take a `keep` and were not given one, in the written order."""
    return [cls.name for cls, _ in _takers(_drafts(spec))]


def field_names(spec: Spec) -> set[str]:
    """Names of the fields that the strategies in `spec` take."""
    return {name for cls, _ in _drafts(spec) for name in _names(cls)}


def named(spec: Spec) -> list[type[Strategy]]:
    """The classes that `spec` names, in the written order, and behind each those that its negative branch runs under.

    Raises:
        TypeError, ValueError: as `parse`.
    """
    parse(spec)  # says what is wrong with the settings
    found: list[type[Strategy]] = []
    for cls, fields in _drafts(spec):
        found += [cls, *(named(fields["branch"]) if isinstance(fields.get("branch"), str) else [])]
    return found


def format_spec(strategies: Sequence[Strategy]) -> str:
    """The string that `parse` turns back into `strategies`; only fields that differ from their defaults appear."""
    return "+".join(_format(strategy) for strategy in strategies) or "none"


def to_dict(strategy: Strategy) -> dict[str, Any]:
    """`{"name": ..., **fields}` with every field, JSON-ready (tuples become lists)."""
    fields = {f.name: getattr(strategy, f.name) for f in dataclasses.fields(strategy) if f.init}
    return {"name": strategy.name, **json.loads(json.dumps(fields))}


def _takers(drafts: list[tuple[type[Strategy], dict[str, Any]]]) -> list[tuple[type[Strategy], dict[str, Any]]]:
    """Those that take a `keep` and were given none; one that modifies what is written before it takes none there."""
    return [
        (cls, fields)
        for place, (cls, fields) in enumerate(drafts)
        if "keep" in _names(cls)
        and "keep" not in fields
        and not (place and cls.at_selection is not Strategy.at_selection)
    ]


def _give(takers: list[tuple[type[Strategy], dict[str, Any]]], keep: Keep) -> None:
    """Set the `keep` of the one strategy that lacks it, or share it out between one of time and one of space.

    The temporal pruner leaves the square root, so that both drop the same share of what they see; the spatial one
    counts in shares of the original, so that what is left is what was asked for, whatever the first could drop.
    """
    if len(takers) == 1:
        takers[0][1]["keep"] = keep
        return
    names = ", ".join(cls.name for cls, _ in takers)
    temporal = [issubclass(cls, VideoPruner) for cls, _ in takers]
    if temporal == [False, True]:
        raise ValueError(
            f"keep={shorten(keep)} cannot be shared between {names}: what drops over time comes first, "
            f"write '{takers[1][0].name}+{takers[0][0].name}', or give each its own keep"
        )
    if temporal != [True, False] or "of" not in _names(takers[1][0]):
        raise ValueError(f"keep={shorten(keep)} is ambiguous: {names} would take it; {EXAMPLE}")
    share = check_keep(keep)
    (first, time), (last, space) = takers
    if isinstance(share, int):
        raise ValueError(
            f"keep={share} is a count, of which {names} have no common share: give a share in (0, 1], or "
            f"'{first.name}(keep=0.3)+{last.name}(keep={share})'"
        )
    if space.get("of", "original") != "original":
        raise ValueError(f"keep={share} is a share of the original for {names}: leave of={space['of']!r} out")
    time["keep"], space["keep"], space["of"] = float(f"{math.sqrt(share):.4g}"), share, "original"


def _format(strategy: Strategy) -> str:
    changed = [
        f"{f.name}={getattr(strategy, f.name)!r}"
        for f in dataclasses.fields(strategy)
        if f.init and not _same(getattr(strategy, f.name), f.default)
    ]
    return f"{strategy.name}({', '.join(changed)})" if changed else strategy.name


def _same(value: Any, default: Any) -> bool:
    """Equal and of one type: keep=1 is a count, keep=1.0 a share."""
    return type(value) is type(default) and bool(value == default)


def _drafts(spec: Any, depth: int = 0) -> list[tuple[type[Strategy], dict[str, Any]]]:
    if spec is None or spec == "none":
        return []
    if isinstance(spec, Strategy):
        return [(type(spec), {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.init})]
    if isinstance(spec, str):
        return terms(spec, get)
    if isinstance(spec, Mapping):
        if "name" not in spec:
            raise ValueError(f"a strategy as a dict needs a 'name', got the keys {shorten(sorted(map(str, spec)))}")
        return [(get(spec["name"]), {k: v for k, v in spec.items() if k != "name"})]
    if isinstance(spec, Sequence) and not isinstance(spec, bytes | bytearray):
        if depth > _MOST or len(spec) > _MOST:
            raise ValueError(f"a list of {len(spec)} strategies, {depth} lists deep: {_MOST} of either are allowed")
        return [draft for part in spec for draft in _drafts(part, depth + 1)]
    raise TypeError(
        f"{shorten(spec)} does not name a strategy: a string, a Strategy, a dict or a list is allowed; {EXAMPLE}"
    )


def _names(cls: type[Strategy]) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if f.init]


def _build(cls: type[Strategy], fields: Mapping[str, Any]) -> Strategy:
    for field in fields:
        if field not in _names(cls):
            raise unknown(f"field of strategy {cls.name!r}:", field, _names(cls))
    return cls(**checked(cls, {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}))
