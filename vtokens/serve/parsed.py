"""Reasoning and calls of tools in an answer, as transformers reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from transformers.cli.serving.utils import ReasoningText, ToolCall, response_events_to_chunks

from vtokens.serve.writing import Called, Reasoned, Said


class Parsed:
    """transformers' parser of answers, read piece by piece (`writing.Reader`).

    A call that the model wrote so badly that it cannot be read is text like any other.
    """

    def __init__(self, parser: Any) -> None:
        self._parser: Any = parser
        self._unread = ""

    def begin(self) -> Iterable[Any]:
        """What the prompt has begun."""
        return list(_items(self._parser.initial_events))

    def feed(self, text: str) -> Iterable[Any]:
        """What the next text completes."""
        self._unread += text
        if self._parser is None:
            return self._rest()
        try:
            found = list(_items(self._parser.feed(text)))
        except (ValueError, KeyError, TypeError):
            self._parser = None
            return self._rest()
        if found:
            self._unread = ""
        return found

    def end(self) -> Iterable[Any]:
        """What is left."""
        if self._parser is None:
            return self._rest()
        try:
            return list(_items(self._parser.finalize()[1]))
        except (ValueError, KeyError, TypeError):
            return self._rest()

    def _rest(self) -> list[Any]:
        text, self._unread = self._unread, ""
        return [Said(text)] if text else []


def _items(events: Any) -> Iterator[Any]:
    for item in response_events_to_chunks(events):
        if isinstance(item, ToolCall):
            yield Called(item.name, item.arguments)
        else:
            yield Reasoned(item) if isinstance(item, ReasoningText) else Said(item)


def begins(template: dict[str, Any], prompt: str) -> bool:
    """Whether a prompt begins an answer as a description of answers expects; those by type of model may not fit."""
    if pattern := template.get("start_anchor_pattern"):
        return re.search(pattern, prompt) is not None
    anchors = template.get("start_anchor", "")
    return any(one in prompt for one in ([anchors] if isinstance(anchors, str) else anchors))
