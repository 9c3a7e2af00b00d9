"""Generated parts of documents, between markers that name the command which writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def fill(text: str, tables: Mapping[str, Callable[[], str]], command: str) -> str:
    """`text` with fresh tables between their markers; ValueError where a table has none."""
    for name, table in tables.items():
        start, end = opening(name, command), f"<!-- end of {name} -->"
        head, rest = text.split(start)
        text = head + start + table() + end + rest.split(end)[1]
    return text


def opening(name: str, command: str) -> str:
    """The marker before a table."""
    return f"<!-- {name}: {command} -->\n"
