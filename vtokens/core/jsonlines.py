"""Append-only files of JSON, one line a row: what was appended is on disk, whatever happens to the process then."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from vtokens.core.reading import lines, opened
from vtokens.core.writing import append, line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

_BLOCK = 1 << 16  # bytes that are looked at in one step for the last line break


class JsonLines:
    """A file that rows are appended to, by one process at a time.

    Opening cuts off a last line that a killed process left unfinished. On Windows, and on file systems without locks,
    it is up to the caller that nobody else has the file open.

    Args:
        path: made if it is not there; its folder is not.

    Raises:
        OSError: it cannot be written.
        ValueError: another process, or another object of this one, appends to it; the file is as it was.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        try:
            _lock(self._file, path)
            self._file.truncate(_whole(path))
        except BaseException:
            self._file.close()
            raise

    def put(self, rows: Iterable[Any], kept: str) -> None:
        """Append rows; they are on disk when this returns.

        Args:
            rows: what JSON can hold.
            kept: says what the disk holds already; ends the message of an error.

        Raises:
            OSError: the disk is full, or the file may not grow: none of `rows` is kept, everything before is.
            ValueError: a number JSON cannot hold; nothing is written.
        """
        data, size = "".join(map(line, rows)).encode(), os.fstat(self._file.fileno()).st_size
        try:
            append(self._file, data, self.path, kept)
        except BaseException:  # an interrupted write, too, would leave half a line in front of the next
            self._file.truncate(size)
            raise

    def close(self) -> None:
        """Close the file, which others may append to then."""
        self._file.close()


def read_lines(
    path: str | Path, most: int, check: Callable[[str], T], fault: str, *, cut_off: bool = True
) -> Iterator[T]:  # fmt: skip
    """The rows in a file of JSON lines; memory holds one line at a time.

    Args:
        path: a regular file.
        most: bytes that a line may have.
        check: makes a row of a line's text, and raises TypeError or ValueError where it is none.
        fault: says of a line what is wrong, with "{}" for the reason: "is damaged ({}): delete it".
        cut_off: whether the last line may be unfinished, as a killed process leaves it; it is left out then.

    Raises:
        OSError: no such file, or no regular one.
        ValueError: a line that is no row, by its number.
    """
    with opened(path) as file:
        for number, (data, length) in enumerate(lines(file, most), 1):
            try:
                if length > len(data):
                    raise ValueError(f"it has {length:,} bytes, and {most:,} are read")
                if not data.endswith(b"\n"):
                    if cut_off:
                        return
                    raise ValueError("it is cut off, so the file is incomplete")
                row = check(data.decode("utf-8"))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}, {fault.format(error)}") from error
            yield row


def _lock(file: FileIO, path: Path) -> None:
    """Keep others from appending to an open file, until it is closed or the process ends."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"another process is writing {path}: wait for it, or give another place") from error
    except OSError:  # a file system without locks
        return


def _whole(path: Path) -> int:
    """Bytes of `path` up to and with the last line break, which is looked for from the end."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(end - _BLOCK, 0)
            file.seek(start)
            if found := file.read(end - start).rfind(b"\n") + 1:
                return start + found
            end = start
    return 0
