"""Strategies by name: the registry, wildcard listing and descriptions."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import keyword
import logging
import pkgutil
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any, TypeVar, get_args

from vtokens.core.errors import unknown
from vtokens.core.terminal import one_line
from vtokens.strategies.base import Strategy

ENTRY_POINTS = "vtokens.strategies"
_log = logging.getLogger("vtokens")
_strategies: dict[str, type[Strategy]] = {}
_aliases: dict[str, str] = {}
_broken: dict[str, str] = {}
"""Plugins that could not be loaded, by the name of their entry point, and why."""
_loaded = False
_lock = threading.RLock()
S = TypeVar("S", bound=type[Strategy])


def register(name: str, *, paper: str = "", aliases: Sequence[str] = ()) -> Callable[[S], S]:
    """Class decorator that makes a strategy available by name.

    Args:
        name: lower case, letters, digits and underscores.
        paper: where it comes from, as a reader would cite it.
        aliases: other names that specs may use; listings and reports keep to `name`.

    Raises:
        ValueError: a name is taken by another class, or not a valid one.
    """
    for one in (name, *aliases):
        # Specs are read with Python's grammar, where keywords are no names; "none" names no strategy at all.
        if not one.isidentifier() or one != one.lower() or keyword.iskeyword(one) or one == "none":
            raise ValueError(f"strategy name {one!r} is not a lower-case identifier such as 'fastv'")

    def add(cls: S) -> S:
        for one in (name, *aliases):
            taken = _strategies.get(_aliases.get(one, one))
            if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(f"strategy {one!r} is already registered by {taken.__module__}.{taken.__qualname__}")
        cls.name, cls.paper, cls.aliases = name, paper, tuple(aliases)
        _strategies[name] = cls
        _aliases.update(dict.fromkeys(aliases, name))
        return cls

    return add


def _load() -> None:
    """Import every strategy module of the package, then the plugins' entry points."""
    global _loaded
    with _lock:
        if not _loaded:
            _load_all()
            _loaded = True


def _load_all() -> None:
    package = importlib.import_module("vtokens.strategies")
    for module in pkgutil.walk_packages(package.__path__, "vtokens.strategies."):
        importlib.import_module(module.name)
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a broken plugin must not take the library down
            why = one_line(f"{entry.name!r} ({entry.value}) could not be loaded: {type(error).__name__}: {error}", 500)
            _log.warning("strategy plugin %s", why)
            _broken[entry.name] = why


def get(name: str) -> type[Strategy]:
    """The strategy class called `name`, which may be an alias.

    Raises:
        TypeError: `name` is no string.
        ValueError: there is none; names the nearest.
        ImportError: the plugin that announces it cannot be loaded; says why.
    """
    _load()
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is not the name of a strategy: a string such as 'fastv' is allowed")
    canonical = _aliases.get(name, name)
    if canonical not in _strategies:
        if name in _broken:
            raise ImportError(f"the strategy plugin {_broken[name]}")
        raise unknown("strategy", name, [*_strategies, *_aliases])
    return _strategies[canonical]


def list_strategies(pattern: str | Sequence[str] = "*", *, stage: str | None = None) -> list[str]:
    """Names of the registered strategies, sorted, optionally those matching wildcards or acting at a stage.

    >>> list_strategies("fast*")
    ['fastv']
    """
    _load()
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    return sorted(
        name
        for name, cls in _strategies.items()
        if any(fnmatch.fnmatchcase(name, p) for p in patterns) and (stage is None or stage in cls.stages())
    )


@dataclasses.dataclass(frozen=True)
class Description:
    """What `describe` returns; printing it gives a readable card."""

    name: str
    summary: str
    stages: tuple[str, ...]
    paper: str
    fields: dict[str, tuple[str, Any]]
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        width = max((len(name) for name in self.fields), default=0)
        lines = [f"{self.name}: {self.summary}", f"  stage: {', '.join(self.stages)}"]
        if self.aliases:
            lines.append(f"  also: {', '.join(self.aliases)}")
        if self.paper:
            lines.append(f"  paper: {self.paper}")
        lines += [
            f"  {name:<{width}} = {default!r}  ({annotation})" for name, (annotation, default) in self.fields.items()
        ]
        return "\n".join(lines)


def describe(name: str) -> Description:
    """Summary, stages, paper and fields (annotation, default) of a strategy.

    Raises:
        ValueError: unknown name; names the nearest.
    """
    cls = get(name)
    summary = (cls.__doc__ or "").strip().split("\n", 1)[0]
    fields = {f.name: (_annotation(f.type), f.default) for f in dataclasses.fields(cls) if f.init}
    return Description(cls.name, summary, cls.stages(), cls.paper, fields, cls.aliases)


def _annotation(kind: Any) -> str:
    # A string where the module defers annotations, the type itself where it does not.
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
