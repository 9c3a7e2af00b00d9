"""Timing, memory and reporting shared by the benchmarks."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.profiler import ProfilerActivity, profile

import vtokens

Run = Callable[[], Any]


class Clock:
    """Times a call in seconds.

    On CUDA the device is synchronised before and after. On a CPU with one thread the processor time of the process is
    read: on a machine that does nothing else it is the wall time, and it leaves out the time spent waiting for a core.
    """

    def __init__(self, device: torch.device, threads: int) -> None:
        self._cuda = device.type == "cuda"
        self.kind = "cpu seconds" if not self._cuda and threads == 1 else "wall seconds"

    def now(self) -> float:
        """Seconds on this clock, everything queued on the device done."""
        if self._cuda:
            torch.cuda.synchronize()
        return time.process_time() if self.kind == "cpu seconds" else time.perf_counter()

    def time(self, run: Run) -> float:
        """Seconds that `run()` takes."""
        begin = self.now()
        run()
        return self.now() - begin


def rounds(runs: Mapping[str, Callable[[], float]], count: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Do each run `count` times, one after the other in every round, so that noise falls on all of them alike.

    Args:
        runs: name -> a call that returns the seconds it measured.
        count: rounds that count; the order turns round after each of them.
        warm_up: rounds before them that do not.

    Returns:
        name -> seconds, in the order of the rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-warm_up, count):
        for name in list(runs) if number % 2 else list(runs)[::-1]:
            taken = runs[name]()
            if number >= 0:
                seconds[name].append(taken)
    return seconds


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
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
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


def conditions(device: torch.device, clock: Clock, model: Any, **more: Any) -> dict[str, Any]:
    """What a figure must be read with: command, versions, machine, load and the model's shape."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "vtokens": vtokens.__version__,
        },
        "device": torch.cuda.get_device_name() if device.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": {"at_start": [round(load, 2) for load in os.getloadavg()]},
        "clock": clock.kind,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config.get_text_config()._attn_implementation,
        **more,
    }


def cpu_name() -> str:
    """The processor's own name where the system tells it, with the vector instructions torch uses."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} ({torch.backends.cpu.get_cpu_capability()})"


def write(path: Path, result: dict[str, Any]) -> None:
    """Write `result` as JSON, with the load average at the end added."""
    result["conditions"]["load_average"]["at_end"] = [round(load, 2) for load in os.getloadavg()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
