"""Evaluation: strategies compared through lmms-eval, with their costs. Nothing heavy is imported before it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vtokens.core.extras import needs

if TYPE_CHECKING:
    from vtokens.eval.journal import Answer, Journal
    from vtokens.eval.lmms.model import VTokens
    from vtokens.eval.tasks import tasks_path

_HOME = {"Answer": "journal", "Journal": "journal", "VTokens": "lmms.model", "tasks_path": "tasks"}
__all__ = ["Answer", "Journal", "VTokens", "tasks_path"]


if not TYPE_CHECKING:  # a checker is to miss names that are not there

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        with needs("eval-light", "evaluation"):
            module = import_module(f"{__name__}.{_HOME[name]}")
        return getattr(module, name)
