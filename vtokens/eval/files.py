"""Files that are whole, or as they were before; and what to do when the disk is full."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

_KEPT = "every answer so far is kept"


@contextmanager
def replacing(path: Path) -> Iterator[Callable[[str], None]]:
    """A function that writes text to a draft, which takes the place of `path` when the block ends without an error.

    Raises:
        OSError: the folder cannot be written or the disk is full; what was there is still there.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        with open(draft, "wb", buffering=0) as file:
            yield lambda text: append(file, text.encode(), path)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by `content` as JSON, in one step.

    Raises:
        OSError: as `replacing`.
        ValueError: a number JSON cannot hold.
    """
    with replacing(path) as write:
        write(json.dumps(content, indent=2, allow_nan=False) + "\n")


def line(row: Any) -> str:
    """One line of JSON; ValueError for a number JSON cannot hold."""
    return json.dumps(row, allow_nan=False) + "\n"


def append(file: FileIO, data: bytes, path: Path, kept: str = _KEPT) -> None:
    """Write all of `data` to an unbuffered file, and on to the disk.

    Raises:
        OSError: says what was kept and, where room is what lacks, how to go on.
    """
    left = memoryview(data)
    try:
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except OSError as error:
        reason = f"{error.strerror}: {kept}"
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            reason += "; make room and run the same command again, it goes on from there"
        raise OSError(error.errno, reason, str(path)) from error
