"""What a strategy reads beside the tokens themselves, as its methods name it: from source, or from bytecode."""

from __future__ import annotations

import ast
import functools
from collections.abc import Collection, Iterable, Iterator
from types import CodeType
from typing import TYPE_CHECKING, Any

from vtokens.core.errors import unknown
from vtokens.core.source import dataclasses_in

if TYPE_CHECKING:
    from vtokens.strategies.base import Strategy

_TEXT = {"relevance", "text", "text_lane"}
"""What views call the words of the prompt."""
_MEANT = {"cls": "saliency", "videos": "video", "layer attention": "attention"}
"""Other words for what is needed."""
WORDS = {
    "attention": "what tokens receive in a decoder layer",
    "change": "how far attention or the MLP of a decoder layer moves tokens",
    "entering": "the states that enter a decoder layer",
    "layer keys": "keys of a decoder layer",
    "neurons": "active neurons of an MLP of the decoder",
    "relevance": "how much each token is like the text",
    "saliency": "what the vision tower attends to: its [CLS] token, or all patches",
    "second prompt": "the logits of another prompt",
    "table": "numbers found for the model",
    "text": "the words of the prompt",
    "tower keys": "keys of a block of the vision tower",
    "tower states": "what leaves a block of the vision tower, before the projector",
    "video": "acts on videos alone",
}
"""What is needed, as a reader is told it; what is not here speaks for itself."""


COSTS = {
    "attention": "attention of a few rows in the layers that are read",
    "relevance": "a cosine of each token with each word",
    "saliency": "one attention row of a tower block (without [CLS]: a pass over that block's attention, in chunks)",
    "second prompt": "a second prefill, its keys and values, and steps of twice the rows",
}
"""What it costs to read that; what is not here is there anyway, or cheap."""


def needed(named: Iterable[str], methods: Collection[str], bases: Collection[str]) -> tuple[str, ...]:
    """What a strategy may need with some of its settings, sorted: `WORDS`, and other signals by their names.

    Args:
        named: the names and attributes that its methods read.
        methods: the methods that it and its bases define.
        bases: the names of its bases.
    """
    named = set(named)
    found = {_spaced(name) for name in named & signals()}
    found |= {"text"} if named & _TEXT or "relevance" in found else set()
    found |= {"second prompt"} if "negative" in methods else set()
    # Staged pruners prepare the numbers of their layers.
    found |= {"table"} if "prepare" in methods and "known" in named else set()  # it looks one up in `vtokens.tables`
    found |= {"video"} if "VideoPruner" in bases else set()
    return tuple(sorted(found))


def of_class(cls: type[Strategy]) -> tuple[str, ...]:
    """What an imported strategy may need; its source need not be there."""
    kind: Any = cls
    return _of_class(kind)


@functools.lru_cache(maxsize=1024)  # every listing asks, and reading bytecode takes longer than all else of it
def _of_class(cls: Any) -> tuple[str, ...]:
    lineage = cls.__mro__[: cls.__mro__.index(_root(cls))]
    named = {
        name for one in lineage for value in vars(one).values() for code in _codes(value) for name in code.co_names
    }
    return needed(named, {name for one in lineage for name in vars(one)}, {one.__name__ for one in lineage[1:]})


def of_source(lineage: Iterable[ast.ClassDef]) -> tuple[str, ...]:
    """The same of a class and its bases as their source has them."""
    chain = list(lineage)
    methods = [part for node in chain for part in node.body if isinstance(part, ast.FunctionDef)]
    named = {name for method in methods for part in method.body for name in _named(part)}
    return needed(named, {method.name for method in methods}, {node.name for node in chain[1:]})


def meets(needs: Iterable[str], asked: str) -> bool:
    """Whether one of `needs` is what is asked for, in its words or in part of them ("keys" is either kind)."""
    asked = _MEANT.get(asked, asked)
    return any(asked == one or asked in one.split() for one in needs)


def check_asked(asked: str, known: Iterable[str]) -> None:
    """Raise `ValueError` if nothing is called so."""
    known = {*known, *WORDS}
    if not meets(known, asked):
        raise unknown("need", asked, sorted({*known, *_MEANT, "keys"}))


@functools.cache
def signals() -> frozenset[str]:
    """The names of the classes by which strategies ask for something to be observed."""
    found = dataclasses_in("vtokens.strategies.signals")
    if found is None:  # only its bytecode is installed
        from typing import get_args

        from vtokens.strategies.signals import Signal

        found = {kind.__name__ for kind in get_args(Signal)}
    return frozenset(found)


def _spaced(name: str) -> str:
    """ "TowerKeys" is "tower keys"."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()


def _root(cls: type[Strategy]) -> type:
    return next(one for one in cls.__mro__ if (one.__module__, one.__name__) == ("vtokens.strategies.base", "Strategy"))


def _named(part: ast.stmt) -> Iterator[str]:
    for node in ast.walk(part):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name) and node.id in signals():  # other names may be variables
            yield node.id


def _codes(value: Any) -> Iterator[CodeType]:
    """The code of a function, a property or a class method, and of the functions inside."""
    for one in (value, *(getattr(value, name, None) for name in ("fget", "func", "__func__"))):
        code = getattr(one, "__code__", None)
        pending = [code] if isinstance(code, CodeType) else []
        while pending:
            found = pending.pop()
            yield found
            pending += [const for const in found.co_consts if isinstance(const, CodeType)]
