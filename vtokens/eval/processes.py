"""The processes that share a sweep: which one this is, and waiting for the others."""

from __future__ import annotations

import os

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
