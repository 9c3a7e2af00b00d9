"""The processes that share a sweep: which one this is, waiting for the others, and keeping strangers out."""

from __future__ import annotations

import os
from pathlib import Path

import filelock
import torch


def ranks(cpu: bool) -> tuple[int, int]:
    """This process's number and how many there are, joined as `torchrun` or `accelerate launch` says.

    Args:
        cpu: whether models run on the CPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    from accelerate import PartialState

    state = PartialState(cpu=cpu)
    return state.process_index, state.num_processes


def wait() -> None:
    """Until all processes are here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def alone(folder: Path, rank: int) -> filelock.AcquireReturnProxy:
    """A lock on a results folder, made if it is not there; as a context manager it is given back at the end.

    Raises:
        OSError: the folder cannot be written.
        ValueError: another sweep's process of this number holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return filelock.FileLock(folder / f".rank{rank}.lock", timeout=0).acquire()
    except filelock.Timeout as error:
        raise ValueError(f"another process is sweeping into {folder}: wait for it, or give another folder") from error
