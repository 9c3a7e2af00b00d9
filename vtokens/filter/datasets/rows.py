"""Rows of a caption file in JSON lines: what is read, what is missing, and nothing lost."""

from __future__ import annotations

import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtokens.core.errors import shorten
from vtokens.core.reading import lines, opened, parse_json
from vtokens.filter.datasets.bounds import LINE, check_length

TEXTS = ("response", "caption", "text")  #: fields that may hold the text, the first that a row has
OWN = "filter"  #: the field that is added to each row
_KEPT = 1000  # characters that are kept of a line too long to be read
_PATH = 4096  # characters of a path, as Linux has it


@dataclass(frozen=True)
class DatasetRow:
    """A line that can be filtered.

    Attributes:
        line: its number, from 1.
        content: the object as it was read.
        image: path of the picture, as written.
        prompt: what the text answers.
        field, text: the name of the field that holds the text, and the text.
        raw: the line as it was read.
    """

    line: int
    content: dict[str, Any]
    image: str
    prompt: str
    field: str
    text: str
    raw: str

    @property
    def digests(self) -> tuple[str, ...]:
        """Of the content, by which a filtered row is known again, and of the line, for a row that was set aside."""
        return digest(self.content), digest(self.raw)


@dataclass(frozen=True)
class Refusal:
    """A line that is set aside: its number, why, and the line as it was read; of an overlong one its beginning."""

    line: int
    reason: str
    raw: str

    @property
    def digests(self) -> tuple[str, ...]:
        """Of the line."""
        return (digest(self.raw),)


def read_rows(path: str | Path, prompt: str, text: str | None = None) -> Iterator[DatasetRow | Refusal]:
    """The lines of a file in order, without empty ones; those that cannot be filtered come as refusals.

    Args:
        path: JSON lines; each an object with "image", a text (`TEXTS`) and, if it likes, "prompt" and "id".
        prompt: for rows without one.
        text: the field that holds the text; None for the first of `TEXTS` that a row has.

    Raises:
        OSError: the file cannot be read.
    """
    seen: dict[str, int] = {}
    with opened(path) as file:
        for number, (data, length) in enumerate(lines(file, LINE), 1):
            raw = data.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
            raw = raw.removeprefix("\ufeff") if number == 1 else raw  # some programs mark a file as UTF-8 so
            if length > len(data):
                reason = f"the line is too long: it has {length:,} bytes and {LINE:,} are read"
                yield Refusal(number, reason, raw[:_KEPT])
                continue
            if not raw.strip():
                continue
            try:
                row = _row(number, raw, _object(raw, data.endswith(b"\n")), prompt, text)
                if "id" in row.content:
                    name = json.dumps(row.content["id"])
                    if name in seen:
                        raise ValueError(f"duplicate id: line {seen[name]} has {_cut(name)} too")
                    seen[name] = number
            except ValueError as error:
                yield Refusal(number, str(error), raw)
            else:
                yield row


def count(path: str | Path) -> int:
    """How many lines `read_rows` gives; raises as it does."""
    with opened(path) as file:
        return sum(
            length > len(data) or bool(data.removeprefix(BOM_UTF8).strip()) for data, length in lines(file, LINE)
        )


def check_form(path: str | Path) -> None:
    """Look whether a file that has rows can be JSON lines.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is one JSON array, or none of its lines begins an object; says what makes them of it.
    """
    first = last = b""
    with opened(path) as file:
        for data, length in lines(file, LINE):
            text = data.removeprefix(BOM_UTF8).strip()
            if text.startswith(b"{") and (first.endswith(b"]") or not first.startswith(b"[")):
                return
            first, last = first or text, b"]" if length > len(data) else text or last
    if first.startswith(b"[") and last.endswith(b"]"):
        form, of, rows = "is one JSON array", "it", "json.load(sys.stdin)"
    elif not first.startswith(b"["):
        form, of, rows = "has no line with a JSON object", "CSV", "csv.DictReader(sys.stdin)"
    else:
        return
    write = f'python -c "import csv, json, sys; [print(json.dumps(row)) for row in {rows}]" < FILE > rows.jsonl'
    raise ValueError(f"{path} {form}: JSON lines are needed, an object a line. What makes them of {of}: {write}")


def digest(content: Any) -> str:
    """A short hash of anything JSON can hold."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def _object(raw: str, whole: bool) -> dict[str, Any]:
    try:
        raw.encode()
        content = parse_json(raw)
    except ValueError as error:
        cut = "" if whole else "; it is the last line and has no line break, so the file may be cut off"
        reason = "it is not UTF-8" if isinstance(error, UnicodeEncodeError) else str(error)
        raise ValueError(f"no JSON: {reason}{cut}") from error
    if not isinstance(content, dict):
        raise ValueError(f"no JSON object but {type(content).__name__}")
    if OWN in content:
        raise ValueError(f"it has a field {OWN!r} already, which the result would replace")
    return content


def _row(line: int, raw: str, content: dict[str, Any], prompt: str, text: str | None) -> DatasetRow:
    named = next((name for name in ([text] if text else TEXTS) if name in content), None)
    if named is None:
        raise ValueError(
            f"no text: a field {' or '.join(repr(name) for name in ([text] if text else TEXTS))} is needed"
        )
    asked = content.get("prompt", prompt)
    for name, value in (("image", content.get("image")), (named, content[named]), ("prompt", asked)):
        if not isinstance(value, str):
            missing = name not in content
            raise ValueError(f"no field {name!r}" if missing else f"{name!r} is no text but {type(value).__name__}")
    if not content["image"]:
        raise ValueError("'image' is empty")
    if len(content["image"]) > _PATH:
        raise ValueError(f"'image' is no path: it has {len(content['image']):,} characters")
    for name, value in ((named, content[named]), ("prompt", asked)):
        check_length(repr(name), value)
    return DatasetRow(line, content, content["image"], asked, named, content[named], raw)


def _cut(name: str) -> str:
    return name if len(name) <= _KEPT else shorten(name)
