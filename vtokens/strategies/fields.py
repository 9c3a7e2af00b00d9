"""The fields of strategies, held against their annotations: one check for every strategy, those of plugins too."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import sys
from collections.abc import Mapping
from functools import cache
from numbers import Integral, Real
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vtokens.core.budget import check_keep
from vtokens.core.errors import shorten, unknown

UNLIMITED = {"unlimited": True}
"""`field(metadata=UNLIMITED)`: inf is a value that the field can take."""

_PLAIN = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", NoneType: "None"}


def checked(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a strategy's fields as plain Python values: numpy's numbers become Python's, lists tuples, paths texts.

    A whole number becomes a float where the annotation has no int, so that a share written as 1 is all there is and
    not a count of one. Numbers have to be finite, and a bool is no number. An annotation that is made of other than
    bool, int, float, str, None, Literal and tuple, or that cannot be resolved, says nothing that could be checked here.

    Args:
        cls: the strategy, a dataclass.
        values: some of its fields, by name.

    Raises:
        TypeError: a value of another type than annotated.
        ValueError: one that is not among the choices, or not finite.
    """
    kinds = _kinds(cls)
    return {name: _checked(name, value, *kinds[name]) for name, value in values.items()}


@cache
def _kinds(cls: Any) -> dict[str, tuple[Any, bool]]:
    """Field -> its annotation (`Any` where that cannot be resolved) and whether it is `UNLIMITED`."""
    fields = (f for f in dataclasses.fields(cls) if f.init)
    return {f.name: (_resolved(cls, f), bool(f.metadata.get("unlimited"))) for f in fields}


def _resolved(cls: type, field: dataclasses.Field[Any]) -> Any:
    owner = next(c for c in cls.__mro__ if field.name in inspect.get_annotations(c))
    space = {**vars(sys.modules[owner.__module__])} if owner.__module__ in sys.modules else {}
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"field": field.type}), space)["field"]
    except (NameError, AttributeError, TypeError, SyntaxError):  # names known to type checkers alone
        return Any


def _checked(name: str, value: Any, kind: Any, unlimited: bool) -> Any:
    choices = _alternatives(kind)
    if not all(map(_understood, choices)):
        return value
    if name == "keep" and not (value is None and NoneType in choices):
        return check_keep(value)
    found = _as_one_of(value, choices)
    if found is not _NO:
        if not _sound(found, unlimited):
            raise ValueError(f"{name}={shorten(value)} is out of range: numbers have to be finite")
        return found
    named = [option for choice in choices if get_origin(choice) is Literal for option in get_args(choice)]
    if named and (isinstance(value, str) or len(choices) == 1):
        raise unknown(name, value, map(str, named))
    hint = f". Did you mean {name}=({value!r},)?" if any(_as((value,), c) is not _NO for c in choices) else ""
    raise TypeError(f"{name}={shorten(value)} is not allowed: {' or '.join(map(_words, choices))} is{hint}")


_NO: Any = object()


def _as_one_of(value: Any, kinds: tuple[Any, ...]) -> Any:
    """`value` as the first of several alternatives that it is one of has it, int before float; `_NO` if it is none."""
    ordered = sorted(kinds, key=lambda kind: kind is float)
    return next((found for kind in ordered if (found := _as(value, kind)) is not _NO), _NO)


def _as(value: Any, kind: Any) -> Any:
    """`value` as one of the annotation's alternatives has it; `_NO` if it is none of those."""
    if get_origin(kind) is Literal:
        return next((option for option in get_args(kind) if type(option) is type(value) and option == value), _NO)
    if get_origin(kind) is tuple:
        return _as_tuple(value, get_args(kind))
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
            return _NO
        try:
            return kind(value)
        except OverflowError:  # a whole number that no float holds
            return math.inf
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if isinstance(value, kind) else _NO


def _as_tuple(value: Any, kinds: tuple[Any, ...]) -> Any:
    if not isinstance(value, tuple | list):
        return _NO
    if len(kinds) == 2 and kinds[1] is ...:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        return _NO
    parts = tuple(_as_one_of(part, _alternatives(kind)) for part, kind in zip(value, kinds, strict=True))
    return _NO if any(part is _NO for part in parts) else parts


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (NoneType if kind is None else kind,)


def _understood(kind: Any) -> bool:
    if get_origin(kind) is tuple:
        inside = [part for part in get_args(kind) if part is not ...]
        return all(_understood(choice) for part in inside for choice in _alternatives(part))
    return get_origin(kind) is Literal or kind in _PLAIN


def _sound(value: Any, unlimited: bool) -> bool:
    """Whether no number in `value` is NaN, or infinite where that is not allowed."""
    if isinstance(value, tuple):
        return all(_sound(part, unlimited) for part in value)
    return not isinstance(value, float) or (not math.isnan(value) if unlimited else math.isfinite(value))


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        inside = parts[:1] if parts[1:] == (...,) else parts
        words = (" or ".join(map(_words, _alternatives(part))) for part in inside)
        return f"a tuple of {', '.join(f'{word[2:]}s' if word[:2] == 'a ' else word for word in words)}"
    return _PLAIN[kind]
