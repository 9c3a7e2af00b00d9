"""Recipes by name: the decorator that registers them, and specs such as "crop(layer=14)"."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from vtokens.core.errors import shorten, unknown
from vtokens.recipes.looking.base import Recipe
from vtokens.strategies.card import EVIDENCE, Evidence
from vtokens.strategies.grammar import bare, grammar

PACKAGE = "vtokens.recipes.looking"
_recipes: dict[str, type[Recipe]] = {}
_EXAMPLE = "write for example 'crop' or 'crop(method=gradient)'"
R = TypeVar("R", bound="type[Recipe]")


def recipe(
    name: str, *, paper: str = "", venue: str = "", evidence: Evidence = "", shown: str = ""
) -> Callable[[R], R]:  # fmt: skip
    """Class decorator that makes a recipe available by name; arguments as those of `vtokens.strategies.register`.

    Raises:
        ValueError: the name is taken by another class, or evidence of another kind.
    """
    if evidence not in EVIDENCE:
        raise unknown("evidence", evidence, [one for one in EVIDENCE if one])

    def add(cls: R) -> R:
        taken = _recipes.get(name)
        if taken is not None and taken.__qualname__ != cls.__qualname__:
            raise ValueError(f"recipe {name!r} is already registered by {taken.__module__}.{taken.__qualname__}")
        cls.name, cls.paper, cls.venue, cls.evidence, cls.shown = name, paper, venue, evidence, shown
        _recipes[name] = cls
        return cls

    return add


def recipes() -> dict[str, type[Recipe]]:
    """All recipes by name, sorted."""
    package = importlib.import_module(PACKAGE)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{PACKAGE}.{module.name}")
    return dict(sorted(_recipes.items()))


def parse_recipe(spec: str | Recipe, others: Iterable[str] = ()) -> Recipe:
    """The recipe that a text names, with its settings.

    Args:
        spec: such as "crop" or "crop(method='gradient', layer=14)"; a recipe stands for itself.
        others: further names that are right where the text comes from, for the message.

    Raises:
        TypeError: a value of another type.
        ValueError: unknown names or settings, with the nearest right one, or no such text at all.
    """
    if isinstance(spec, Recipe):
        return spec
    node = grammar(spec.strip(), "recipe", _EXAMPLE)
    call = node if isinstance(node, ast.Call) else None
    name = node.func if isinstance(node, ast.Call) else node
    if not isinstance(name, ast.Name) or (call and (call.args or any(word.arg is None for word in call.keywords))):
        raise ValueError(f"cannot read the recipe {shorten(spec)}: settings are given by name; {_EXAMPLE}")
    known = recipes()
    if name.id not in known:
        raise unknown("recipe", name.id, [*known, *others])
    cls, settings = known[name.id], {}
    fields = [f.name for f in dataclasses.fields(cls)]
    for word in call.keywords if call else []:
        assert word.arg is not None
        if word.arg not in fields:
            raise unknown(f"setting of the recipe {name.id!r}:", word.arg, fields)
        if word.arg in settings:
            raise ValueError(f"cannot read the recipe {shorten(spec)}: {shorten(word.arg)} is given twice")
        settings[word.arg] = _value(word.value, spec)
    return cls(**settings)


def _value(node: ast.expr, spec: str) -> Any:
    if isinstance(node, ast.Name):
        return bare(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"cannot read a value in the recipe {shorten(spec)}: {_EXAMPLE}") from error
