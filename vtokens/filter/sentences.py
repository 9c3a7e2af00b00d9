"""Splitting a response into the units that are redacted as one: sentences, or the clauses of a list."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from vtokens.core.errors import unknown

Span = tuple[int, int]  #: first character, and one past the last
Splitter = Callable[[str], list[Span]]

_CLOSING = "\"'\u201d\u2019\u00bb)\\]\u300d\u300f"
_END = re.compile(rf"[.!?…]+[{_CLOSING}*]*(?=\s|$)|[。！？]+[{_CLOSING}]*|[\r\n\u2028\u2029]+")
_TITLE = re.compile(r"(?:^|[\s(])(?:[A-Z]|Mr|Mrs|Ms|Dr|St)\.$")  # a name follows
_SHORT = re.compile(r"(?:^|[\s(])(?:vs|etc|approx|fig|cf|e\.?g|i\.?e|a\.m|p\.m|U\.S)\.$")
_NUMBERED = re.compile(r"\s*(?:\d{1,3}|[A-Za-z])[.)]$|\s*[-*•]+$")
_CLAUSE = re.compile(r"\s*(?:[,;.!?…。！？、，；]+(?=\s|$)|[、，；。！？]|[\r\n]+)")


def split(text: str) -> list[Span]:
    """The sentences of a text, as spans of characters in order, without the white space around them.

    Lines end sentences too, and an item of a list is one. Whatever is not white space lies in one of them, and all
    but the last stay as they are when the text goes on.
    """
    return list(_trimmed(text, _cuts(text)))


def clauses(text: str) -> list[Span]:
    """What stands between commas, semicolons, full stops and line breaks, such as the items of "red circle, blue ring".

    The separators belong to no clause.
    """
    spans, at = [], 0
    for found in _CLAUSE.finditer(text):
        spans.append((at, found.start()))
        at = found.end()
    return list(_trimmed(text, [*spans, (at, len(text))]))


SPLITTERS: dict[str, Splitter] = {"sentences": split, "clauses": clauses}


def get_splitter(name: str | Splitter) -> Splitter:
    """A splitter by its name, "sentences" or "clauses"; a function is its own. ValueError for another name."""
    if callable(name):
        return name
    if name not in SPLITTERS:
        raise unknown("splitter", name, SPLITTERS)
    return SPLITTERS[name]


def _cuts(text: str) -> Iterator[Span]:
    at = 0
    for found in _END.finditer(text):
        before = text[at : found.end()]
        if found[0] == "." and (_TITLE.search(before) or _NUMBERED.fullmatch(before)):
            continue
        if found[0] == "." and _SHORT.search(before) and not text[found.end() :].lstrip()[:1].isupper():
            continue
        yield at, found.end()
        at = found.end()
    yield at, len(text)


def _trimmed(text: str, spans: Iterator[Span] | list[Span]) -> Iterator[Span]:
    for start, end in spans:
        inside = text[start:end]
        if inside.strip():
            yield start + len(inside) - len(inside.lstrip()), start + len(inside.rstrip())
