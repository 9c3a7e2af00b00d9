"""Text of others (a model's answer, a file's name, a caption, an error) on a terminal: shown, never obeyed."""

from __future__ import annotations

import json
import re
from typing import Any

_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_HIDDEN = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""`text` with what would steer a terminal written as an escape: "\x1b" for the character ESC.

    That is control characters (C0 but for newline and tab, DEL, C1), marks that turn the direction of text, and halves
    of surrogate pairs, which no terminal can be sent. Printable text stays as it is, in every script.
    """
    return _STEERS.sub(lambda found: _escape(found[0], "\\x{:02x}" if found[0] < "\x80" else "\\u{:04x}"), text)


def one_line(text: str, most: int | None = None) -> str:
    """`text` as `printable`, on one line; of a longer text than `most` the beginning and the end."""
    line = printable(" ".join(text.split()))
    if most is None or len(line) <= most:
        return line
    return f"{line[: most * 3 // 4]} ... {line[-most // 4 :]} ({len(line):,} characters)"


def json_text(content: Any, **options: Any) -> str:
    """JSON that a terminal can be shown: letters of all scripts as they are, what `printable` escapes as an escape.

    Args:
        content: what JSON can hold.
        options: as of `json.dumps`.
    """
    # JSON itself escapes C0, and the others can only stand inside its strings.
    text = json.dumps(content, ensure_ascii=False, **options)
    return _HIDDEN.sub(lambda found: _escape(found[0], "\\u{:04x}"), text)


def _escape(char: str, form: str) -> str:
    return form.format(ord(char))
