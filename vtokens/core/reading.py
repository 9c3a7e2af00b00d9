"""Files that others may have made: read if regular and of bounded size, and JSON that all readers understand alike."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from vtokens.core.errors import shorten

MEBIBYTE = 1 << 20
DEPTH = 64
"""Lists and objects that may stand inside each other; our own files need 8."""
_DIGITS = 308  # of an integer: more are no number for readers that know floats only, and take Python long to convert
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def regular(path: str | Path) -> os.stat_result:
    """What is known of the regular file at `path`, or where it links to.

    Raises:
        OSError: there is none, or something else: a pipe would be waited for for ever, and a device may never end.
        TypeError: no path; a number would be an open file.
    """
    try:
        found = os.stat(os.fspath(path))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)[:4096]) from None
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in _KINDS if test(found.st_mode)), "something else")
        raise OSError(f"{shorten(str(path))} is {kind}, and a regular file is needed")
    return found


def opened(path: str | Path) -> BinaryIO:
    """The regular file at `path`, opened for reading bytes; raises as `regular`."""
    regular(path)
    return open(path, "rb")


def within(folder: str | Path, name: str) -> Path:
    """The path of `name` in `folder`.

    Raises:
        ValueError: it lies elsewhere: by "..", as an absolute path, or through a link.
    """
    # Other than Path.resolve, realpath takes links that lead in a circle; opening says what is wrong with them.
    root, path = os.path.realpath(folder), os.path.realpath(Path(folder, name))
    if not Path(path).is_relative_to(root):
        raise ValueError(f"{shorten(name)} lies outside of {shorten(str(folder))}")
    return Path(path)


def same_file(first: str | Path, second: str | Path) -> bool:
    """Whether two paths lead to one file, by links of either kind or in other letters; it need not be there yet."""
    try:
        return os.path.samefile(first, second)
    except OSError:
        return os.path.realpath(first) == os.path.realpath(second)


def read_text(path: str | Path, most: int = 64 * MEBIBYTE) -> str:
    """The text of a UTF-8 file.

    Raises:
        OSError: as `regular`.
        ValueError: it holds more than `most` bytes, of which no more are read, or is not UTF-8.
    """
    with opened(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it holds more than {most:,} bytes, the most that are read")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error.reason} at byte {error.start}") from error


def read_json(path: str | Path, most: int = 64 * MEBIBYTE) -> Any:
    """What a JSON file holds; raises as `read_text` and `parse_json`."""
    return parse_json(read_text(path, most))


def parse_json(text: str, halves: bool = False) -> Any:
    """What JSON text holds, if every reader would understand it alike.

    Args:
        text: JSON.
        halves: whether halves of surrogate pairs, which stand for bytes that are no UTF-8, are let through.

    Raises:
        ValueError: no JSON, or JSON with NaN or infinity, a number that no float holds (1e999, or an integer of more
            than 308 digits), a name that an object has twice, half of a surrogate pair, or more than `DEPTH` levels.
    """
    try:
        content = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {DEPTH} levels") from error
    level, depth = [content], 0
    while level := [part for one in level for part in _parts(one) if isinstance(part, dict | list)]:
        depth += 1
        if depth >= DEPTH:
            raise ValueError(f"it is nested deeper than {DEPTH} levels")
    if "\\u" in text and not halves:
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise ValueError(f"it holds {half}, half of a surrogate pair, which is no character") from error
    return content


def lines(file: BinaryIO, most: int) -> Iterator[tuple[bytes, int]]:
    """The lines of a file, and the length of each in bytes; of a longer line than `most`, only its beginning.

    Memory holds no more than that, however long a line is.
    """
    while data := file.readline(most + 1):
        # The file's end in the middle of a line, and a moment later the rest: somebody is appending.
        while len(data) <= most and not data.endswith(b"\n") and (rest := file.readline(most + 1 - len(data))):
            data += rest
        length, last = len(data), data
        while not last.endswith(b"\n") and (last := file.readline(MEBIBYTE)):
            length += len(last)
        yield data[:most], length


def _parts(content: Any) -> Any:
    return content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"an object has the name {shorten(twice)} twice")
    return found


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{shorten(text)} is too large for a number")
    return value


def _int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"{shorten(text)} is too large for a number")
    return int(text)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant)
