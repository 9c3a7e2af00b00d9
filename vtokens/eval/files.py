"""Files that are either whole or as they were before."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by `content` as JSON, in one step.

    Raises:
        OSError: as `write_text`.
        ValueError: a number JSON cannot hold.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace `path` by JSON lines, in one step; raises as `write_json`."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, in one step: a process killed halfway leaves the file that was there.

    Raises:
        OSError: the folder cannot be written or the disk is full; what was there is still there.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise go_on(error, path, "every answer so far is kept") from error


def go_on(error: OSError, path: Path, kept: str) -> OSError:
    """`error` with what was kept and, where room is what lacks, how to go on."""
    reason = f"{error.strerror}: {kept}"
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        reason += "; make room and run the same command again, it goes on from there"
    return OSError(error.errno, reason, str(path))
