"""What functions of programs gave, kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from vtokens.strategies import Strategy, format_spec

T = TypeVar("T")


def remembered(function: Callable[..., T], most: int) -> Callable[..., T]:
    """What a function gave for the same programs; those of which a field is a list are asked about anew."""

    @lru_cache(maxsize=most)
    def known(programs: tuple[tuple[Strategy, ...], ...], specs: tuple[str, ...]) -> T:
        return function(*programs)

    def asked(*programs: tuple[Strategy, ...]) -> T:
        try:
            hash(programs)
        except TypeError:
            return function(*programs)
        return known(programs, tuple(map(format_spec, programs)))  # equal ones may differ (`same`)

    return asked
