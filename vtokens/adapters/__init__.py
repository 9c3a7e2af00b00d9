"""Adapters: one file a model family, found by `config.model_type` and imported when a model of it is met."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtokens.core.lazy import importer

if TYPE_CHECKING:
    from vtokens.adapters.anatomy import Anatomy, Deepstack, TowerSpec, Visibility
    from vtokens.adapters.base import Adapter
    from vtokens.adapters.find import adapter_for
    from vtokens.adapters.registry import adapter_class, brought_by, examples, models, register_adapter

__all__ = [
    "Adapter",
    "Anatomy",
    "Deepstack",
    "TowerSpec",
    "Visibility",
    "adapter_class",
    "adapter_for",
    "brought_by",
    "examples",
    "models",
    "register_adapter",
]

if not TYPE_CHECKING:  # a checker is to miss names that are not there
    __getattr__ = importer(
        __name__,
        {
            "Adapter": "vtokens.adapters.base",
            "Anatomy": "vtokens.adapters.anatomy",
            "Deepstack": "vtokens.adapters.anatomy",
            "TowerSpec": "vtokens.adapters.anatomy",
            "Visibility": "vtokens.adapters.anatomy",
            "brought_by": "vtokens.adapters.registry",
            "adapter_class": "vtokens.adapters.registry",
            "adapter_for": "vtokens.adapters.find",
            "examples": "vtokens.adapters.registry",
            "models": "vtokens.adapters.registry",
            "register_adapter": "vtokens.adapters.registry",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
