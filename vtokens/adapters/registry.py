"""Model families by `config.model_type`: the registry, which imports a family when it is asked for.

Other packages bring families by an entry point of the group `vtokens.adapters`, whose name is the family's: it is
listed without being imported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, TypeVar

from vtokens.core.source import import_naming, written
from vtokens.core.written import RegisteredClass, Unread

if TYPE_CHECKING:
    from vtokens.adapters.base import Adapter

ENTRY_POINTS = "vtokens.adapters"
_PACKAGE, _DECORATOR = "vtokens.adapters", "register_adapter"
_QUERIES = "a few learnt queries stand for the picture in its sequence, and no patch of it has a place there"
_WHOLE = "its decoder attends to what an encoder makes of picture and text, which takes no part in its sequence"
WITHOUT = {
    "blip-2": _QUERIES,
    "instructblip": _QUERIES,
    "instructblipvideo": _QUERIES,
    "florence2": _WHOLE,
    "pix2struct": _WHOLE,
    "udop": _WHOLE,
    "phi4_multimodal": "it writes features into its embeddings inside of the decoder, so that no call makes them",
}
"""Families that people ask for and that have no adapter: why not."""
_adapters: dict[str, type[Adapter]] = {}
"""Those that were imported: the package's own by name, others by whoever brings them."""
A = TypeVar("A", bound="type[Adapter]")


def register_adapter(model_type: str) -> Callable[[A], A]:
    """Class decorator: `model_type` is transformers' `config.model_type`.

    Raises:
        TypeError: the class does not declare what the family is made of.
    """

    def add(cls: A) -> A:
        if not hasattr(cls, "anatomy"):
            raise TypeError(
                f"{cls.__name__} has no `anatomy`: an adapter declares what its family is made of, in place of the "
                "properties of vtokens 0.1 (docs/migrating.md, docs/add-a-model.md)"
            )
        cls.model_type = model_type
        _adapters[model_type] = cls
        return cls

    return add


def models() -> list[str]:
    """The supported model families, by transformers' `config.model_type`."""
    return sorted({*_written_examples(), *_adapters, *_plugins()})


def examples(model_type: str) -> tuple[str, ...]:
    """Hub ids of well-known checkpoints of a family; torch and transformers are not imported for it.

    Only its import tells those of a family that another package brings: none are known before.

    Raises:
        ValueError: there is no such family; names the supported ones.
    """
    if model_type not in _adapters:
        if model_type in _written_examples():
            return _written_examples()[model_type]
        if model_type in _plugins():
            return ()
    return adapter_class(model_type).examples


def brought_by(model_type: str) -> str | None:
    """The installed package that brings a family; None if it is one of vtokens' own."""
    entry = None if model_type in _written_examples() else _plugins().get(model_type)
    return None if entry is None else entry.dist.name if entry.dist is not None else entry.module


def adapter_class(model_type: str) -> type[Adapter]:
    """The adapter of a family, whose module is imported if it is not yet.

    Raises:
        ValueError: there is none; names the supported ones.
        ImportError: the package that announces it cannot be loaded, or does not register it; says why.
    """
    if model_type not in _adapters:
        import_naming(_PACKAGE, _DECORATOR, model_type)
    if model_type not in _adapters and model_type in _plugins():
        _load(_plugins()[model_type])
    if model_type not in _adapters:
        why = f", as {WITHOUT[model_type]}" if model_type in WITHOUT else ""
        # A family that is spelt alike is another one all the same: none is suggested.
        raise ValueError(
            f"there is no adapter for the model family {model_type!r} (config.model_type){why}; supported are "
            f"{', '.join(models())}, and docs/add-a-model.md says how to add one"
        )
    return _adapters[model_type]


@functools.cache
def _plugins() -> dict[str, EntryPoint]:
    """The families that other packages announce, by the names of their entry points."""
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _load(entry: EntryPoint) -> None:
    try:
        entry.load()
    except Exception as error:
        raise ImportError(
            f"the adapter of the model family {entry.name!r} ({entry.value}) could not be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    if entry.name not in _adapters:
        raise ImportError(
            f"{entry.value} announces an adapter of the model family {entry.name!r}, and registers none: the entry "
            f"point's name has to be the one given to register_adapter ({', '.join(sorted(_adapters))} are registered)"
        )


@functools.cache
def _written_examples() -> dict[str, tuple[str, ...]]:
    """Of the package's own families, as their source has it; one that does not say it plainly is imported."""
    return dict(written(_PACKAGE, _DECORATOR, "Adapter", _read))


def _read(found: RegisteredClass) -> tuple[str, tuple[str, ...]]:
    if len(found.arguments) != 1:
        raise Unread
    return found.arguments[0], tuple(found.constant("examples"))
