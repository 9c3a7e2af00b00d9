"""Files of examples, a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from vtokens.core.errors import shorten


def read_examples(path: Path, lacks: str, allowed: dict[str, str]) -> Iterator[dict[str, str]]:
    """Rows of a file; lines without anything are passed over.

    Args:
        path: the file.
        lacks: what a row that will not do may lack, for the message: "an image or a label".
        allowed: a row that will do, whose fields every row must have as text.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is no such row; names the line.
    """
    from vtokens.core.reading import parse_json, read_text

    for number, line in enumerate(read_text(path).removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number} of {shorten(str(path))}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{where} is no JSON: {error}") from None
        if not (isinstance(row, dict) and all(isinstance(row.get(name), str) and row[name] for name in allowed)):
            raise ValueError(f"{where} lacks {lacks}: {json.dumps(allowed)} is allowed")
        yield row
