"""Files of measured constants: those that ship beside a table's module, and those that users write."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from vtokens.core.errors import shorten
from vtokens.schemas import load

T = TypeVar("T")


def shipped(package: str, parse: Callable[[Any], T]) -> tuple[T, ...]:
    """The tables that lie in a package as JSON files, in the order of their names."""
    entries = sorted(files(package).iterdir(), key=lambda entry: entry.name)
    return tuple(parse(json.loads(e.read_text(encoding="utf-8"))) for e in entries if e.name.endswith(".json"))


def read(
    path: str | Path,
    kind: str,
    schema: int,
    parse: Callable[[Any], T],
    what: str,
    how: str,
    errors: tuple[type[Exception], ...] = (OSError, ValueError),
) -> T:
    """A table from a JSON file that a user names.

    Args:
        path: the file.
        kind: of file, as `schemas.load` knows it.
        schema: the version of it.
        parse: makes the table.
        what: it holds, for errors.
        how: it is written, for errors.
        errors: those that reading and `parse` raise of what is wrong with the file.

    Raises:
        ImportError: pydantic is missing.
        ValueError: no such file, or not one of this kind.
    """
    try:
        return parse(load(path, kind, ("schema", schema)))
    except errors as error:
        raise ValueError(f"{shorten(str(path))} holds no {what} ({error}): write it with {how}") from error
