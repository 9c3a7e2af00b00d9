"""The key-value cache under the name that the installed transformers gives it.

Up to 5.23 decoders take it as `past_key_values` and outputs carry it under that name; from 5.24 both say `cache`, and
the old name warns. A module is read by its own signature, an output by its own fields, so that classes which have not
been renamed work beside those which have.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

_NAMES = ("cache", "past_key_values")


def given_cache(kwargs: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments of a decoder or of one of its layers; None if there is none."""
    for name in _NAMES:  # no generator: every layer of every step asks
        if (found := kwargs.get(name)) is not None:
            return found
    return None


def as_cache(module: nn.Module, cache: Any) -> dict[str, Any]:
    """`cache` as the keyword argument that `module.forward` takes it by."""
    return {_keyword(type(module).forward): cache}


def swap_cache(module: nn.Module, kwargs: Mapping[str, Any], cache: Any) -> dict[str, Any]:
    """`kwargs` with `cache` in place of the cache among them, by the name that `module.forward` takes it by."""
    return {**{name: value for name, value in kwargs.items() if name not in _NAMES}, **as_cache(module, cache)}


def returned_cache(output: Any) -> Any:
    """The cache that a model's output carries; None if it carries none or is a plain tuple."""
    if not isinstance(output, Mapping):
        return None
    return next((output[name] for name in _NAMES if name in output.keys()), None)  # noqa: SIM118 (`in output` warns)


@functools.cache
def _keyword(forward: Callable[..., Any]) -> str:
    """The name that a forward's signature, or that of the one it wraps, has for the cache."""
    return next((name for name in _NAMES if name in inspect.signature(forward).parameters), _NAMES[-1])
