"""Values that are worked out when they are asked for first: in most calls nobody asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Later(Generic[T]):
    """A value that is made once, when it is asked for first."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make

    @cached_property
    def value(self) -> T:
        """What is made."""
        return self._make()


class Made:
    """An attribute that gives the value of a `Later` that was put there, and else what was put there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        found = instance.__dict__[self._name]
        return found.value if isinstance(found, Later) else found

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._name] = value
