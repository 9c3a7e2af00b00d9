"""Strategies: one file an algorithm, found by name. Called, the module lists names: `vtokens.strategies("fast*")`."""

import sys
from types import ModuleType
from typing import Any

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy, check_layer
from vtokens.strategies.bases import Contraster, Merger, ScorePruner
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import Description, describe, get, list_strategies, register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention, Saliency
from vtokens.strategies.spec import Spec, format_spec, parse, to_dict
from vtokens.strategies.views.visuals import Visuals

__all__ = [
    "Attention",
    "Contraster",
    "Description",
    "Facts",
    "Merger",
    "Needs",
    "Saliency",
    "ScorePruner",
    "Selection",
    "Spec",
    "Strategy",
    "Visuals",
    "check_layer",
    "describe",
    "format_spec",
    "get",
    "list_strategies",
    "parse",
    "register",
    "to_dict",
]


class _Listing(ModuleType):
    """Lets `vtokens.strategies` be both this package and the function that lists names."""

    def __call__(self, *args: Any, **kwargs: Any) -> list[str]:
        return list_strategies(*args, **kwargs)


sys.modules[__name__].__class__ = _Listing
