"""Settings of strategies that are out of range are refused, and what is allowed is said."""

from __future__ import annotations

import math
from collections.abc import Iterable


def check_layer(what: str, value: object, depth: int, first: int = 0) -> int:
    """Return `value` as a layer index.

    Raises:
        TypeError: not an int.
        ValueError: outside first..depth-1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what}={value!r} is not a layer number: an int from {first} to {depth - 1} is allowed")
    if not first <= value < depth:
        nearest = min(max(value, first), depth - 1)
        raise ValueError(
            f"{what}={value} is out of range for a model with {depth} layers: "
            f"{first} to {depth - 1} is allowed, the nearest is {nearest}"
        )
    return value


def check_layers(what: str, values: Iterable[object], depth: int, first: int = 0) -> tuple[int, ...]:
    """Return `values` as layer indices, ascending and each once; with a `first` below 0, negative ones from the end.

    Raises:
        TypeError, ValueError: as `check_layer`.
    """
    return tuple(sorted({check_layer(what, one, depth, first) % depth for one in values}))


def check_share(what: str, value: object) -> None:
    """Raise unless `value` is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what}={value!r} is not a number")
    if not 0 <= value <= 1:
        raise ValueError(f"{what}={value!r} is out of range: a share in [0, 1] is allowed")


def check_seed(seed: int) -> None:
    """Raise `ValueError` unless torch's generators take a seed."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r} is out of range: an int from 0 to 2**63 - 1 is allowed")


def check_weight(what: str, value: float, least: float = 0.0) -> None:
    """Raise `ValueError` unless a number is `least` or more, and not inf."""
    if not least <= value < math.inf:
        raise ValueError(f"{what}={value!r} is out of range: a finite number from {least:g} on is allowed")


def check_range(what: str, value: float, least: float, most: float) -> None:
    """Raise `ValueError` unless a number is `least` to `most`."""
    if not least <= value <= most:
        raise ValueError(f"{what}={value!r} is out of range: from {least} to {most} is allowed")
