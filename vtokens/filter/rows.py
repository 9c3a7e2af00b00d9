"""Rows of a caption file in JSON lines: what is read, what is missing, and nothing lost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

TEXTS = ("response", "caption", "text")  #: fields that may hold the text, the first that a row has
OWN = "filter"  #: the field that is added to each row


@dataclass(frozen=True)
class Row:
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
    """A line that is set aside: its number, why, and the line as it was read."""

    line: int
    reason: str
    raw: str

    @property
    def digests(self) -> tuple[str, ...]:
        """Of the line."""
        return (digest(self.raw),)


def read(path: str | Path, prompt: str, text: str | None = None) -> Iterator[Row | Refusal]:
    """The lines of a file in order, without empty ones; those that cannot be filtered come as refusals.

    Args:
        path: JSON lines; each an object with "image", a text (`TEXTS`) and, if it likes, "prompt" and "id".
        prompt: for rows without one.
        text: the field that holds the text; None for the first of `TEXTS` that a row has.

    Raises:
        OSError: the file cannot be read.
    """
    seen: dict[str, int] = {}
    with open(path, "rb") as file:
        for number, data in enumerate(file, 1):
            raw = data.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
            if not raw.strip():
                continue
            try:
                row = _row(number, raw, _object(raw, data.endswith(b"\n")), prompt, text)
                if "id" in row.content:
                    name = json.dumps(row.content["id"])
                    if name in seen:
                        raise ValueError(f"duplicate id: line {seen[name]} has {name} too")
                    seen[name] = number
            except ValueError as error:
                yield Refusal(number, str(error), raw)
            else:
                yield row


def digest(content: Any) -> str:
    """A short hash of anything JSON can hold."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def _object(raw: str, whole: bool) -> dict[str, Any]:
    try:
        raw.encode()
        content = json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        cut = "" if whole else "; it is the last line and has no line break, so the file may be cut off"
        reason = "it is not UTF-8" if isinstance(error, UnicodeEncodeError) else str(error) or "it is nested too deeply"
        raise ValueError(f"no JSON: {reason}{cut}") from error
    if not isinstance(content, dict):
        raise ValueError(f"no JSON object but {type(content).__name__}")
    if OWN in content:
        raise ValueError(f"it has a field {OWN!r} already, which the result would replace")
    return content


def _row(line: int, raw: str, content: dict[str, Any], prompt: str, text: str | None) -> Row:
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
    return Row(line, content, content["image"], asked, named, content[named], raw)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
