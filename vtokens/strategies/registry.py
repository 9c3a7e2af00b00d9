"""Strategies by name: the registry, wildcard listing and descriptions. Nothing here imports a strategy to list it."""

from __future__ import annotations

import fnmatch
import keyword
import logging
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, TypeVar

from vtokens.core.errors import unknown
from vtokens.core.refusals import refusal
from vtokens.core.source import import_naming
from vtokens.core.terminal import one_line
from vtokens.strategies.card import EVIDENCE, Description, Evidence, card, written_cards
from vtokens.strategies.needed import check_asked, meets
from vtokens.strategies.stages import STAGES

if TYPE_CHECKING:
    from vtokens.strategies.base import Strategy

ENTRY_POINTS = "vtokens.strategies"
_PACKAGE = "vtokens.strategies"
_RECIPES = {
    "quota": "quota",
    "zoom": "zoom",
    "opera": "opera",
    **dict.fromkeys(("aks", "bolt", "date", "tstar"), "search_frames"),
    **{name: name for name in ("ara", "carve", "crop", "dyfo", "ilvad", "patches", "sdrpn")},
}
"""What papers call a method as they do strategies, and is a function around `generate` here: its name there."""
_NOT_BUILT = {
    "two_fates": "the negative of pruned tokens that it takes is \"contrast(branch='cls(keep=0.1)')\"; how it "
    "calibrates states beside that is in no public text or code that could be read",
    "clva": "which layers its anchors come from, and how they are brought into late ones, is in no public text or code "
    "that could be read: 'ilvad' (a recipe) and 'adavboost' lift what is looked at",
    "vasparse": "it asks a detector after each word, and the sparsity of its release is switched off: 'dola' contrasts "
    "with an early exit, and \"contrast(branch='random(keep=0.5)')\" with half of the visual tokens",
    "videoanchor": "it solves for a coefficient of each pair of visual tokens, and the number of its clusters and all "
    "weights are set for each benchmark, to values that are not public: "
    "'paint' and 'vaf' lift visual tokens",
    "cmai": "its layers and threshold are not public: 'vmtc' is the half of the paper that drops tokens, and 'vaf' "
    "weighs what text attends to",
    "ptp": "how it weighs regions, tokens and the question against one another is in no public text or code that could "
    "be read: 'holov' gives each region a quota, and 'fastv' ranks by the question",
    "resprune": "how it rebuilds a subspace under a question is in no public text or code that could be read: "
    "'prunesid' spans subspaces, and 'cdpruner' weighs them by the question",
}
"""Methods that are asked for and are none of ours: why, and what is nearest."""
_log = logging.getLogger("vtokens")
_strategies: dict[str, type[Strategy]] = {}
"""Those that were imported; the package's own are by name, plugins by the first listing."""
_aliases: dict[str, str] = {}
_broken: dict[str, str] = {}
"""Plugins that could not be loaded, by the name of their entry point, and why."""
_plugins_loaded = False
_lock = threading.RLock()
S = TypeVar("S", bound="type[Strategy]")


def register(
    name: str,
    *,
    paper: str = "",
    aliases: Sequence[str] = (),
    venue: str = "",
    evidence: Evidence = "",
    shown: str = "",
    given: tuple[str, Evidence, str] | tuple[()] = (),
) -> Callable[[S], S]:
    """Class decorator that makes a strategy available by name.

    Args:
        name: lower case, letters, digits and underscores.
        paper: where it comes from, as a reader would cite it.
        aliases: other names that specs may use; listings and reports keep to `name`.
        venue: where that was published, as "CVPR 2025".
        evidence: what says that this is the method: "parity" with inputs and outputs of the released code, "text" of
            the paper, or "stand-in" where the method asks for what is not there, such as trained weights; "" for one
            of one's own.
        shown: the test that shows it, as pytest names it from the root of the project.
        given: a setting that brings what is missing, the evidence with it, and the test that shows that.

    Raises:
        ValueError: a name is taken by another class, or not a valid one; evidence of another kind.
    """
    for kind in (evidence, *given[1:2]):
        if kind not in EVIDENCE:
            raise unknown("evidence", kind, [one for one in EVIDENCE if one])
    for one in (name, *aliases):
        # Specs are read with Python's grammar, where keywords are no names; "none" names no strategy at all.
        if not one.isidentifier() or one != one.lower() or keyword.iskeyword(one) or one == "none":
            raise ValueError(f"strategy name {one!r} is not a lower-case identifier such as 'fastv'")

    def add(cls: S) -> S:
        for one in (name, *aliases):
            taken = _holder(one, cls.__module__)
            if taken not in ("", f"{cls.__module__}.{cls.__qualname__}"):
                raise ValueError(f"strategy {one!r} is already registered by {taken}")
        cls.name, cls.paper, cls.aliases = name, paper, tuple(aliases)
        cls.venue, cls.evidence, cls.shown, cls.given = venue, evidence, shown, given
        _strategies[name] = cls
        _aliases.update(dict.fromkeys(aliases, name))
        return cls

    return add


def _holder(name: str, module: str) -> str:
    """Where the class that has this name or alias is, "" if it is free to a class of `module`."""
    cls = _registered(name)
    if cls is not None:
        return f"{cls.__module__}.{cls.__qualname__}"
    if module.startswith(f"{_PACKAGE}."):  # which has each name once: a test reads them
        return ""
    # What the package has and nobody has imported yet is taken all the same.
    return next((where for own, where in written_cards().values() if name in (own.name, *own.aliases)), "")


def _registered(name: str) -> type[Strategy] | None:
    return _strategies.get(_aliases.get(name, name))


def _load_plugins() -> None:
    """Import the plugins' entry points, once: what they register, and torch with it, only their import tells."""
    global _plugins_loaded
    with _lock:
        if not _plugins_loaded:
            for entry in entry_points(group=ENTRY_POINTS):
                _load_plugin(entry)
            _plugins_loaded = True


def _load_plugin(entry: EntryPoint) -> None:
    try:
        entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a broken plugin must not take the library down
        why = one_line(f"{entry.name!r} ({entry.value}) could not be loaded: {type(error).__name__}: {error}", 500)
        _log.warning("strategy plugin %s", why)
        _broken[entry.name] = why


def _cards() -> dict[str, Description]:
    """The cards of all strategies, by name."""
    _load_plugins()
    own = {name: text for name, (text, _) in written_cards().items()}
    return own | {name: card(cls) for name, cls in _strategies.items()}


def _check(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is not the name of a strategy: a string such as 'fastv' is allowed")


def _unknown(name: str) -> Exception:
    """The error for a name that nobody has."""
    if name in _broken:
        return ImportError(f"the strategy plugin {_broken[name]}")
    if name in _RECIPES:
        return ValueError(
            f"{name!r} is a recipe, no strategy: it asks the model more than once, or chooses what it is shown. Use "
            f"vtokens.recipes.{_RECIPES[name]} (docs/recipes.md)" + (", or vtokens run --quota" * (name == "quota"))
        )
    if name == "none":
        return ValueError("'none' is the model as it is, and stands by itself: leave it out where strategies are named")
    if name == "agser":
        return ValueError("'agser' is a signal of the filter, no strategy (docs/filter.md)")
    if name in _NOT_BUILT:
        return ValueError(f"{name!r} is known and not built: {_NOT_BUILT[name]}")
    return unknown("strategy", name, [one for text in _cards().values() for one in (text.name, *text.aliases)])


def get(name: str) -> type[Strategy]:
    """The strategy class called `name`, which may be an alias; its module is imported if it is not yet.

    Raises:
        TypeError: `name` is no string.
        ValueError: there is none; names the nearest.
        ImportError: the plugin that announces it cannot be loaded; says why.
    """
    _check(name)
    with _lock:
        if _registered(name) is None:
            import_naming(_PACKAGE, "register", name)
        if _registered(name) is None:
            _load_plugins()
    cls = _registered(name)
    if cls is None:
        raise _unknown(name)
    return cls


def list_strategies(
    pattern: str | Sequence[str] = "*",
    *,
    stage: str | None = None,
    needs: str | Sequence[str] = (),
    family: str | None = None,
) -> list[str]:
    """Names of the strategies, sorted: those that match, with all that is asked of them.

    Args:
        pattern: wildcards, of which one matches.
        stage: one at which they act.
        needs: what they read, all of it: "saliency" (or "cls"), "keys", "attention", "text", "video", ...
            (`vtokens.strategies.needed.WORDS`).
        family: transformers' `model_type` of models that do not refuse them; torch is imported to tell.

    Raises:
        ValueError: no such stage, need or family; names the nearest.

    >>> list_strategies("fast*")
    ['fastv', 'fastvid']
    >>> list_strategies("fast*", needs="cls")
    ['fastvid']
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    cards, asked = _cards(), [needs] if isinstance(needs, str) else list(needs)
    if stage is not None and stage not in STAGES:
        raise unknown("stage", stage, STAGES)
    for one in asked:
        check_asked(one, [need for text in cards.values() for need in text.needs])
    names = sorted(
        name
        for name, text in cards.items()
        if any(fnmatch.fnmatchcase(name, p) for p in patterns)
        and (stage is None or stage in text.stages)
        and all(meets(text.needs, one) for one in asked)
    )
    return names if family is None else [name for name in names if not refusal(name, family)]


def describe(name: str) -> Description:
    """Summary, stages, paper and fields (annotation, default) of a strategy.

    Raises:
        TypeError, ValueError, ImportError: as `get`.
    """
    _check(name)
    found = next((text for text in _cards().values() if name in (text.name, *text.aliases)), None)
    if found is None:
        raise _unknown(name)
    return found
