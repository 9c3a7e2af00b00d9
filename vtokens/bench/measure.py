"""Measuring cases: every provider is warmed up, compared with the oracle, and timed in turn with the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch

from vtokens.bench import kernels
from vtokens.bench.case import BenchSetting, Case, Provider
from vtokens.bench.row import BenchRow, commit, release
from vtokens.bench.timing import Roofline, Stopwatch, quantile
from vtokens.core.errors import unknown
from vtokens.core.timing import peak_bytes, rounds

_LEAST, _MOST = 3, 200
"""Rounds of a case."""
_LONG = 10.0
"""Seconds of a round of which one has to do."""


def names() -> list[str]:
    """The kernels that have a benchmark: the modules of `vtokens.bench.kernels`, each with a function `cases`."""
    return [module.name for module in iter_modules(kernels.__path__)]


def cases(kernel: str, setting: BenchSetting) -> Iterator[Case]:
    """The cases of a kernel; they draw their inputs as they are asked for.

    Raises:
        ValueError: no benchmark has that name.
    """
    if kernel not in names():
        raise unknown("kernel", kernel, names())
    yield from import_module(f"vtokens.bench.kernels.{kernel}").cases(setting)


@torch.no_grad()
def measure(
    kernel: str, case: Case, setting: BenchSetting, stopwatch: Stopwatch, roof: Roofline, seconds: float
) -> list[BenchRow]:
    """Time every provider of a case; those that fail get a row that says why.

    Args:
        kernel: its name.
        case, setting: what and where.
        stopwatch: reads the time.
        roof: the machine's.
        seconds: how long to measure, about; three rounds are made in any case, or one where it takes long.
    """
    facts: dict[str, dict[str, Any]] = {name: {} for name in case.providers}
    runs: dict[str, Callable[[], float]] = {}
    spent = 0.0
    for name, provider in case.providers.items():
        try:
            selected = provider.select() if provider.select else None
            output = provider.run(selected)
            facts[name]["max_error"] = case.error(output) if case.error and provider.same else None
            del output
            begun = time.perf_counter()
            facts[name]["peak_mb"] = peak_bytes(partial(_whole, provider), setting.device) / 2**20
            spent += (time.perf_counter() - begun) * (1 if provider.select is None else 2)
            parts = _parts(provider, selected)
        # A backend that does not take the shape, or for which there is no memory or compiler, says so in its own way.
        except Exception as error:
            facts[name] = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
            if setting.cuda:
                torch.cuda.empty_cache()
            continue
        runs |= {f"{name}/{part}": partial(stopwatch.time, run) for part, run in parts.items()}
    count = max(_LEAST if spent < _LONG else 1, min(_MOST, int(seconds / max(spent, 1e-6))))
    measured = rounds(runs, count, warm_up=0)
    return [
        _row(kernel, name, case, setting, stopwatch, count, roof, _split(measured, name), facts[name])
        for name in case.providers
    ]


def _whole(provider: Provider) -> Any:
    return provider.run(provider.select() if provider.select else None)


def _parts(provider: Provider, selected: Any) -> dict[str, Callable[[], Any]]:
    kernel: dict[str, Callable[[], Any]] = {"kernel": partial(provider.run, selected)}
    if provider.select is None:
        return kernel
    return {"select": provider.select, **kernel, "together": partial(_whole, provider)}


def _split(measured: dict[str, list[float]], name: str) -> dict[str, list[float]]:
    return {key.rpartition("/")[2]: values for key, values in measured.items() if key.rpartition("/")[0] == name}


def _row(
    kernel: str, provider: str, case: Case, setting: BenchSetting, stopwatch: Stopwatch, count: int, roof: Roofline,
    times: dict[str, list[float]], facts: dict[str, Any],
) -> BenchRow:  # fmt: skip
    device = torch.cuda.get_device_name(setting.device) if setting.cuda else "cpu"
    numbers: dict[str, Any] = {}
    if times:
        whole, kernel_ms = times.get("together", times["kernel"]), quantile(times["kernel"], 0.5)
        work = case.work
        dense = work.flops if work.dense_flops is None else work.dense_flops
        numbers = {f"ms_p{share}": quantile(whole, share / 100) for share in (20, 50, 80)}
        numbers |= {
            "select_ms": quantile(times["select"], 0.5) if "select" in times else None,
            "kernel_ms": kernel_ms,
            "tflops": work.flops / kernel_ms / 1e9,
            "dense_tflops": dense / numbers["ms_p50"] / 1e9,
            "gbps": work.bytes / kernel_ms / 1e6,
            "roofline": roof.ms(work.flops, work.bytes) / kernel_ms,
        }
    batch, heads, kv_heads, dim, rows, keys = case.shape
    return BenchRow(
        kernel, provider, device, torch.__version__, release("triton"), str(setting.dtype).removeprefix("torch."),
        batch, heads, kv_heads, dim, rows, keys, case.pattern, case.density, torch.get_num_threads(), stopwatch.name,
        count if times else 0, commit=commit(), **numbers, **facts,
    )  # fmt: skip
