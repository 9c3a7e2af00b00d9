"""Locks between processes: a second command with the same output is refused, not waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock


@contextmanager
def alone(path: Path, doing: str, output: str) -> Iterator[None]:
    """A block that one process at a time may be in; a process that dies in it has left it.

    Args:
        path: a file for the lock alone, in a folder that is there; it stays.
        doing: what the block does, as in "writing out.jsonl".
        output: what another process could be given instead: "folder".

    Raises:
        OSError: the file cannot be written.
        ValueError: somebody is in the block, in this process or another.
    """
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ValueError(f"another process is {doing}: wait for it, or give another {output}") from error
    try:
        yield
    finally:
        lock.release()
