"""How long calls take: single calls in turn, their quantiles, and what the machine can do at most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

_FLUSHED = 1 << 28
"""Bytes written between calls on a GPU, so that none finds its inputs in a cache."""

ClockName = Literal["auto", "wall", "cpu"]


class Stopwatch:
    """Milliseconds of one call.

    On CUDA between two events on the stream, after a write that empties the caches and lets the launches of the call
    queue up behind it. On a CPU, "wall" time, or "cpu": the processor time of all threads over their number, which
    leaves out waiting for a core that others hold; "auto" takes this with one thread.
    """

    def __init__(self, device: torch.device, clock: ClockName = "auto") -> None:
        cuda, self._threads = device.type == "cuda", torch.get_num_threads()
        if clock == "auto":
            clock = "cpu" if self._threads == 1 else "wall"
        self.name = "events" if cuda else clock
        self._flush = torch.empty(_FLUSHED, dtype=torch.int8, device=device) if cuda else None

    def time(self, run: Callable[[], Any]) -> float:
        """Milliseconds that `run()` takes."""
        if self._flush is not None:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._flush.zero_()
            begin.record()
            run()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end)
        now = time.perf_counter if self.name == "wall" else time.process_time
        started = now()
        run()
        return 1e3 * (now() - started) / (1 if self.name == "wall" else self._threads)


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True)
class Roofline:
    """What the machine reached: operations of a matrix product and bytes of a copy, a second."""

    flops: float
    bytes: float

    def ms(self, flops: float, moved: float) -> float:
        """The least milliseconds for so many operations and bytes."""
        return 1e3 * max(flops / self.flops, moved / self.bytes)


def roofline(device: torch.device, dtype: torch.dtype, stopwatch: Stopwatch) -> Roofline:
    """Measure it: the best of several products of square matrices and of several copies."""
    side, size = (8192, 1 << 30) if device.type == "cuda" else (1024, 1 << 27)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = min(stopwatch.time(lambda: left @ right) for _ in range(8))
    copy = min(stopwatch.time(lambda: target.copy_(source)) for _ in range(8))
    return Roofline(2e3 * side**3 / product, 2e3 * size / copy)
