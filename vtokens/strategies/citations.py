"""BibTeX of what strategies and recipes come from, and of vtokens: `vtokens cite`, `vtokens.strategies.cite`."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vtokens.core.errors import unknown
from vtokens.core.source import sources
from vtokens.core.written import name_of, value_of
from vtokens.strategies.bibtex import Source, bibtex
from vtokens.strategies.grammar import summands
from vtokens.strategies.registry import describe, list_strategies

if TYPE_CHECKING:
    from vtokens.strategies.spec import Spec

_RECIPES = "vtokens.recipes.looking"
_FUNCTIONS = {
    "aks": ("AKS, arXiv:2502.21271", ""),
    "bolt": ("BOLT, arXiv:2503.21483", ""),
    "date": ("DATE, arXiv:2509.09263", ""),
    "opera": ("OPERA, arXiv:2311.17911", "CVPR 2024"),
    "quota": ("QuoTA, arXiv:2503.08689", ""),
    "tstar": ("T*, arXiv:2504.02259", "CVPR 2025"),
    "zoom": ("MLLMs Know Where to Look, arXiv:2502.17422", "ICLR 2025"),
}
"""Recipes that are functions, and so no registry holds: paper and venue."""


@functools.cache
def recipe_sources() -> dict[str, Source]:
    """What recipes come from, by name, read from their source: importing them imports torch."""
    found = [Source(name, *told) for name, told in _FUNCTIONS.items()]
    for module, source in sources(_RECIPES).items():
        if source is None:  # only bytecode is installed
            held: list[Any] = [*vars(importlib.import_module(module)).values()]
            own = [one for one in held if getattr(one, "__module__", "") == module and getattr(one, "paper", "")]
            found += [Source(one.name, one.paper, one.venue, tuple(one.__annotations__)) for one in own]
        elif "@recipe(" in source:
            found += [_recipe(node) for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {one.name: one for one in found if one.name}


def _recipe(node: ast.ClassDef) -> Source:
    """What a class says of itself under the decorator `recipe`; without a name if it stands under none."""
    calls = [one for one in node.decorator_list if isinstance(one, ast.Call) and name_of(one.func) == "recipe"]
    if not calls:
        return Source("", "", "")
    told = {word.arg: value_of(word.value) for word in calls[0].keywords}
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    settings = [ast.unparse(part.target) for part in fields if "ClassVar" not in ast.unparse(part.annotation)]
    return Source(value_of(calls[0].args[0]), told.get("paper", ""), told.get("venue", ""), tuple(settings))


def cite(*specs: Spec) -> str:
    """BibTeX of the papers that strategies and recipes come from, each once, and of vtokens.

    Args:
        specs: what names strategies anywhere (with settings, strategies joined by "+", what a negative branch runs
            under), or recipes: `cite("visionzip+census", "crop")`.

    Returns:
        Entries, with a line before each that says for what. What has no paper is named in a line. A paper of which the
        package has no entry, such as a plugin's, gets one of what the strategy says, with a note that it is incomplete.

    Raises:
        TypeError: a value of another kind.
        ValueError: unknown names or settings, with the nearest right one.
        ImportError: a plugin cannot be loaded.

    >>> print(cite("fastv").splitlines()[0])
    % fastv
    """
    return bibtex([source for spec in specs for source in _sources(spec)])


def cite_all() -> str:
    """BibTeX of the papers of every strategy and recipe, by name, and of vtokens."""
    return bibtex([*map(_source, list_strategies()), *(one for _, one in sorted(recipe_sources().items()))])


def _sources(spec: Spec) -> Iterator[Source]:
    terms = _terms(spec) if isinstance(spec, str) else None
    if terms is None:
        yield from _strategies(spec)
        return
    for name, settings, term in terms:
        if name in recipe_sources():
            found = recipe_sources()[name]
            for one in settings:
                if one not in found.settings:
                    raise unknown(f"setting of the recipe {name!r}:", one, found.settings)
            yield found
        elif term == name:
            yield _source(name)
        else:
            yield from _strategies(term)


def _terms(text: str) -> list[tuple[str, list[str], str]] | None:
    """The name of each term of a spec, its settings and the term; None for what the parser of specs has to be asked."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    found = []
    for part in summands(node):
        name, keywords = (part.func, part.keywords) if isinstance(part, ast.Call) else (part, [])
        if not isinstance(name, ast.Name):
            return None
        settings = [str(word.arg) for word in keywords]
        found.append((name.id, settings, ast.get_source_segment(text.strip(), part) or ""))
    return [] if found == [("none", [], "none")] else found


def _strategies(spec: Spec) -> Iterator[Source]:
    from vtokens.strategies.spec import named  # torch is imported with it

    for cls in named(spec):
        yield _source(cls.name)


def _source(name: str) -> Source:
    try:
        card = describe(name)
    except ValueError as error:
        if not str(error).startswith("unknown strategy"):
            raise
        aliases = [alias for one in list_strategies() for alias in (one, *describe(one).aliases)]
        raise unknown("strategy or recipe", name, [*aliases, *recipe_sources()]) from None
    return Source(card.name, card.paper, card.venue)
