"""Timing and memory: clocks, interleaved rounds, medians with quartiles, peaks."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

Run = Callable[[], Any]
T = TypeVar("T")


class Clock:
    """Times a call in seconds.

    On CUDA the device is synchronised before and after. On a CPU with one thread the processor time of the process is
    read: on a machine that does nothing else it is the wall time, and it leaves out the time spent waiting for a core.
    """

    def __init__(self, device: torch.device, threads: int) -> None:
        self._device, self._cuda = device, device.type == "cuda"
        self.kind = "cpu seconds" if not self._cuda and threads == 1 else "wall seconds"

    def now(self) -> float:
        """Seconds on this clock, everything queued on the device done."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
        return time.process_time() if self.kind == "cpu seconds" else time.perf_counter()

    def time(self, run: Run) -> float:
        """Seconds that `run()` takes."""
        begin = self.now()
        run()
        return self.now() - begin


def rounds(runs: Mapping[str, Callable[[], T]], count: int, warm_up: int = 1) -> dict[str, list[T]]:
    """Do each run `count` times, one after the other in every round, so that noise falls on all of them alike.

    Args:
        runs: name -> a call that returns what it measured.
        count: rounds that count; the order turns round after each of them.
        warm_up: rounds before them that do not.

    Returns:
        name -> what was measured, in the order of the rounds.
    """
    measured: dict[str, list[T]] = {name: [] for name in runs}
    for number in range(-warm_up, count):
        for name in list(runs) if number % 2 else list(runs)[::-1]:
            value = runs[name]()
            if number >= 0:
                measured[name].append(value)
    return measured


def summary(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "q1": low, "q3": high, "rounds": len(values)}


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """Median and quartiles of the ratios of two runs of the same round."""
    return summary([a / b for a, b in zip(above, below, strict=True)])


def peak_bytes(run: Run, device: torch.device) -> int:
    """The most tensor bytes that live at once during `run()`, on top of those that lived before it.

    On CUDA the allocator keeps count; on a CPU every allocation is replayed from the profiler's record.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # at 5, its default here, every start is logged on stderr
    with torch_profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    # The public event list only keeps what falls outside every operator; Kineto's own list has each change.
    assert recorded.profiler is not None
    assert recorded.profiler.kineto_results is not None
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    if not changes:
        raise RuntimeError("the profiler recorded no allocation, so there is no peak to read")
    level = peak = 0
    for _, change in changes:
        level += change
        peak = max(peak, level)
    return peak


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or this machine, had no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
