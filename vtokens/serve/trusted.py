"""Which strategies a request may write itself: those that name no file and no model of the server's machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vtokens.core.errors import shorten
from vtokens.strategies import Strategy, parse

_WORDS = {("dymu", "target"), ("yopo", "stop")}
"""Fields for text that is one of a few words, and read as nothing else."""


def check_trusted(program: Iterable[Strategy]) -> None:
    """Refuse strategies whose fields hold text that may be the path of a file, or the name of a model to load.

    What is wrong with a file would tell a client what lies where, and a model would be fetched for it. Text that is a
    strategy itself, as the branch of a contrast, is looked into; all other text is refused, since fields of plugins may
    mean anything by it. Presets, which are the owner's, may hold it.

    Raises:
        ValueError: a field holds such text.
    """
    for one in program:
        hints = get_type_hints(type(one))
        for field in fields(one):
            value = getattr(one, field.name)
            default = field.default if field.default is not MISSING else None
            if value != default and (one.name, field.name) not in _WORDS:
                for text in _texts(value, hints.get(field.name)):
                    _check(one.name, field.name, text)


def _check(strategy: str, field: str, text: str) -> None:
    try:
        inner = parse(text)
    except (TypeError, ValueError):
        raise ValueError(
            f"{strategy}({field}={shorten(text, 80)}) is not let in from a request: it may name a file or a model of "
            "the server; the server's owner can make a preset of it"
        ) from None
    check_trusted(inner)


def _texts(value: Any, hint: Any) -> Iterable[str]:
    """The texts in a value, but those that its annotation lists."""
    if isinstance(value, str):
        return () if value in _listed(hint) else (value,)
    if isinstance(value, tuple | list):
        return [text for part in value for text in _texts(part, hint)]
    return ()


def _listed(hint: Any) -> set[Any]:
    """What the `Literal` parts of an annotation allow."""
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    return {option for part in get_args(hint) for option in _listed(part)}
