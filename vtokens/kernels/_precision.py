"""Kernels choose their precision themselves: autocast is meant for the model's layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

TIE = 64 * torch.finfo(torch.float32).eps
"""Cosines this close are one and the same: equal tokens leave a tower unequal by rounding, otherwise in each batch."""
EQUAL = 1 - TIE
"""Cosines above it are those of equal tokens, and count as 1: which of a flat picture's tokens are taken is then the
same in every batch."""
P = ParamSpec("P")
R = TypeVar("R")


def first_most(values: Tensor) -> Tensor:
    """int64 (G,): the place of the first of the values (G, M), without NaN, within a share `TIE` of the largest."""
    top = values.amax(1, keepdim=True)
    return (values >= torch.where(top > 0, top * (1 - TIE), top * (1 + TIE))).long().argmax(1)


def as_given(function: Callable[P, R]) -> Callable[P, R]:
    """Let a kernel compute in the dtypes it was given, or in those it chose, under `torch.autocast` too."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        kind = next((x.device.type for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        if kind is None or not torch.is_autocast_enabled(kind):
            return function(*args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return function(*args, **kwargs)

    return run
