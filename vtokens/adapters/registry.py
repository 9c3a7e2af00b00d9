"""Model families by `config.model_type`: the registry, which imports a family when it is asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from vtokens.core.source import import_naming, written
from vtokens.core.written import Unread, Written

if TYPE_CHECKING:
    from vtokens.adapters.base import Adapter

_PACKAGE, _DECORATOR = "vtokens.adapters", "register_adapter"
_adapters: dict[str, type[Adapter]] = {}
"""Those that were imported: the package's own by name, others by whoever brings them."""
A = TypeVar("A", bound="type[Adapter]")


def register_adapter(model_type: str) -> Callable[[A], A]:
    """Class decorator: `model_type` is transformers' `config.model_type`."""

    def add(cls: A) -> A:
        cls.model_type = model_type
        _adapters[model_type] = cls
        return cls

    return add


def models() -> list[str]:
    """The supported model families, by transformers' `config.model_type`."""
    return sorted({*_written_examples(), *_adapters})


def examples(model_type: str) -> tuple[str, ...]:
    """Hub ids of well-known checkpoints of a family; torch and transformers are not imported for it.

    Raises:
        ValueError: there is no such family; names the supported ones.
    """
    if model_type not in _adapters and model_type in _written_examples():
        return _written_examples()[model_type]
    return adapter_class(model_type).examples


def adapter_class(model_type: str) -> type[Adapter]:
    """The adapter of a family, whose module is imported if it is not yet.

    Raises:
        ValueError: there is none; names the supported ones.
    """
    if model_type not in _adapters:
        import_naming(_PACKAGE, _DECORATOR, model_type)
    if model_type not in _adapters:
        # A family that is spelt alike is another one all the same: none is suggested.
        raise ValueError(
            f"there is no adapter for the model family {model_type!r} (config.model_type); supported are "
            f"{', '.join(models())}, and docs/add-a-model.md says how to add one"
        )
    return _adapters[model_type]


@functools.cache
def _written_examples() -> dict[str, tuple[str, ...]]:
    """Of the package's own families, as their source has it; one that does not say it plainly is imported."""
    return dict(written(_PACKAGE, _DECORATOR, "Adapter", _read))


def _read(found: Written) -> tuple[str, tuple[str, ...]]:
    if len(found.arguments) != 1:
        raise Unread
    return found.arguments[0], tuple(found.constant("examples"))
