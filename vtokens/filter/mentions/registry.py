"""Extractors by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from vtokens.core.errors import unknown
from vtokens.filter.mentions.base import Extractor, Splitter
from vtokens.filter.sentences import SPLITTERS, get_splitter

_COCO = Path(__file__).parent / "vocabularies" / "coco.txt"


def _scenes() -> Extractor:
    from vtokens.filter.mentions.scenes import Scenes

    return Scenes()


def _coco() -> Extractor:
    from vtokens.filter.mentions.lexicon import read_vocabulary

    return read_vocabulary(_COCO, "coco")


def _chunks() -> Extractor:
    from vtokens.filter.mentions.chunks import Chunks

    return Chunks()


def _spacy() -> Extractor:
    from vtokens.filter.mentions.spacy import load

    return load()


_EXTRACTORS: dict[str, Callable[..., Extractor]] = {
    "chunks": _chunks,
    "coco": _coco,
    "scenes": _scenes,
    "spacy": _spacy,
}


def extractors() -> list[str]:
    """The names `get_extractor` knows; "lexicon:FILE" reads a vocabulary of yours (`mentions.lexicon.read_vocabulary`),
    and "spacy:PIPELINE" another pipeline than the small English one."""
    return [*sorted(_EXTRACTORS), "lexicon:FILE", "spacy:PIPELINE"]


def get_extractor(name: str | Extractor, sentences: str | Splitter | None = None) -> Extractor:
    """An extractor by its name.

    Args:
        name: one of `extractors()`, or an extractor, which is returned as it is. "coco@clauses" is "coco" with the
            sentences "clauses"; an extractor's `name` says so, and so gives the same extractor again.
        sentences: "sentences", "clauses" or a function; None for the extractor's own. It cuts responses into what is
            redacted as one.

    Raises:
        ImportError: "spacy" where it or its model is not installed; says how to install it.
        OSError, ValueError: a vocabulary that cannot be read, or an unknown name.
        TypeError: no name and no extractor; or sentences for an extractor that is made already.
    """
    if not isinstance(name, str):
        if not callable(name) or not hasattr(name, "sentences"):
            raise TypeError(f"extractor must be a name or an extractor, got {name!r}")
        if sentences is not None:
            raise TypeError("sentences belongs to extractors given by name; this one has its own")
        return name
    what, at, cut = name.rpartition("@")
    if not at or cut not in SPLITTERS:  # a file may have an @ in its name
        what, cut = name, ""
    made: Any = _made(what)
    splitter = get_splitter(sentences or cut) if sentences or cut else made.sentences
    if splitter == made.sentences:
        return cast(Extractor, made)
    called = next((known for known, one in SPLITTERS.items() if one == splitter), getattr(splitter, "__name__", "own"))
    return cast(Extractor, replace(made, sentences=splitter, name=f"{what}@{called}"))


def _made(name: str) -> Extractor:
    kind, _, file = name.partition(":")
    if kind == "lexicon" and file:
        from vtokens.filter.mentions.lexicon import read_vocabulary

        return read_vocabulary(file)
    if kind == "spacy" and file:
        from vtokens.filter.mentions.spacy import load

        return load(file)
    if name not in _EXTRACTORS:
        raise unknown("extractor", name, extractors())
    return _EXTRACTORS[name]()
