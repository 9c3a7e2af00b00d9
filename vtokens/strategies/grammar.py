"""Specs as text: Python's own grammar read as `name(field=value)+name`. Nothing here imports a strategy, or torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from keyword import kwlist
from typing import Any, TypeVar

from vtokens.core.errors import shorten

T = TypeVar("T")
LONGEST = 10_000
"""Characters of a spec: what Python's grammar takes for text grows faster than its length."""
_WORD = re.compile(rf"=(\s*)({'|'.join(word for word in kwlist if word.islower())})(?=\s*[,)])")
EXAMPLE = "write for example 'fastv(keep=0.25, layer=2)' or 'cls(keep=0.5)+fastv(keep=0.5)'"


def terms(text: str, known: Callable[[str], T]) -> list[tuple[T, dict[str, Any]]]:
    """What each term of a spec names, by `known`, and its fields.

    Raises:
        ValueError: bad syntax, or what `known` raises.
    """
    text = text.strip()
    try:
        node = grammar(text, "strategy", EXAMPLE)
    except ValueError:
        # Python's own words are no names to its grammar, and one of them is a value: budget=global.
        quoted = _WORD.sub(r"=\1'\2'", text)
        if quoted == text:
            raise
        node = grammar(quoted, "strategy", EXAMPLE)
    return [_term(part, text, known) for part in summands(node)]


def summands(node: ast.expr) -> list[ast.expr]:
    """The terms between which `+` stands."""
    parts: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts.append(node.right)
        node = node.left
    return [node, *reversed(parts)]


def grammar(text: str, what: str, example: str) -> ast.expr:
    """What Python's own grammar makes of `text`, so that quoting and nesting are right without a parser of our own.

    Raises:
        ValueError: no expression, one nested too deep, or one of more than `LONGEST` characters; `what` it should be
            and an `example` of it are named.
    """
    if len(text) > LONGEST:
        raise ValueError(
            f"cannot read the {what} {shorten(text)}: at most {LONGEST:,} characters are read, and it has {len(text):,}"
        )
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:  # the last two: nested too deep
        raise ValueError(f"cannot read the {what} {shorten(text)}: {example}") from error


def _term(node: ast.expr, text: str, known: Callable[[str], T]) -> tuple[T, dict[str, Any]]:
    name = node.func if isinstance(node, ast.Call) else node
    if not isinstance(name, ast.Name) or (isinstance(node, ast.Call) and node.args):
        raise ValueError(f"cannot read the strategy {shorten(text)}: fields are given by name; {EXAMPLE}")
    fields: dict[str, Any] = {}
    for keyword in node.keywords if isinstance(node, ast.Call) else []:
        if keyword.arg is None:
            raise ValueError(f"cannot read the strategy {shorten(text)}: '**' is not allowed; {EXAMPLE}")
        if keyword.arg in fields:
            raise ValueError(f"cannot read the strategy {shorten(text)}: {shorten(keyword.arg)} is given twice")
        fields[keyword.arg] = _literal(keyword.value, text, known)
    return known(name.id), fields


def _literal(node: ast.expr, text: str, known: Callable[[str], Any]) -> Any:
    if isinstance(node, ast.Name):
        return bare(node.id)
    if any(isinstance(part, ast.Call) for part in ast.walk(node)):
        return _nested(node, text, known)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        value = shorten(ast.get_source_segment(text, node))  # what is nested too deep cannot be unparsed either
        raise ValueError(f"cannot read the value {value} in the strategy {shorten(text)}: {EXAMPLE}") from error


def _nested(node: ast.expr, text: str, known: Callable[[str], Any]) -> str:
    """A spec inside a spec, as branch=random(keep=0.1), as text."""
    try:
        spec = ast.unparse(node)
    except RecursionError as error:
        raise ValueError(f"cannot read the strategy {shorten(text)}: {EXAMPLE}") from error
    try:
        terms(spec, known)
    except ValueError as error:
        raise ValueError(f"cannot read the value {shorten(spec)} in the strategy {shorten(text)}: {error}") from error
    return spec


def bare(word: str) -> Any:
    """What a word without quotes stands for: objective=maxsum reads as well as objective='maxsum'."""
    if word in ("nan", "inf"):
        return float(word)
    return {"true": True, "false": False, "none": None}.get(word, word)
