"""Files that are whole, or as they were before; and what to do when the disk is full."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtokens.core.reading import regular

if TYPE_CHECKING:
    from PIL import Image

_KEPT = "every answer so far is kept"
_DRAFT = ".{}.{}.draft"


@contextmanager
def fresh(path: str | Path) -> Iterator[FileIO]:
    """A file to write, which takes the place of `path` when the block ends without an error.

    It lies beside `path` under a name of its own, so that several writers leave the whole file of one of them. Where
    `path` is a link, what it links to is replaced; a file that was there hands its mode on.

    Raises:
        OSError: the folder cannot be written, the disk is full, or `path` is there and no regular file; what was there
            is still there.
    """
    target = Path(os.path.realpath(path))
    before = regular(target) if target.exists() else None
    draft = target.with_name(_DRAFT.format(target.name[:40], secrets.token_hex(8)))
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(handle, "wb", buffering=0) as file:
            if before is not None:
                os.chmod(draft, stat.S_IMODE(before.st_mode))
            yield file
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def replacing(path: str | Path) -> Iterator[Callable[[str], None]]:
    """A function that writes text to what takes the place of `path`; raises as `fresh`."""
    with fresh(path) as file:
        yield lambda text: append(file, text.encode(), Path(path))


def clear_drafts(path: str | Path) -> None:
    """Delete what killed processes left behind of files that were to take the place of `path`.

    For a caller that knows itself to be the only writer of `path`: the drafts of others are deleted too.

    Raises:
        OSError: the folder cannot be written.
    """
    target = Path(os.path.realpath(path))
    for draft in target.parent.glob(_DRAFT.format(escape(target.name[:40]), "[0-9a-f]" * 16)):
        draft.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by `text`, in one step; raises as `fresh`."""
    with replacing(path) as write:
        write(text)


def write_picture(path: str | Path, image: Image.Image) -> None:
    """Replace `path` by a picture in PNG, in one step; raises as `fresh`."""
    with fresh(path) as file:
        image.save(file, "PNG")
        os.fsync(file.fileno())


def write_json(path: str | Path, content: Any) -> None:
    """Replace `path` by `content` as JSON, in one step.

    Raises:
        OSError: as `fresh`.
        ValueError: a number JSON cannot hold.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


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
