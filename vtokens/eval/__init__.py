"""Evaluation: strategies compared through lmms-eval, with their costs. Nothing heavy is imported before it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtokens.eval.journal import Answer, Journal

_HOME = {"Answer": "journal", "Journal": "journal"}
__all__ = ["Answer", "Journal"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
