"""What the benchmarks share: the package's own measuring, and how a result is written."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import tables
from benchmarks.record import lacking, record
from vtokens.core.timing import Clock, peak_bytes, ratio, rounds, summary

__all__ = [
    "Clock",
    "conditions",
    "cpu_name",
    "load_average",
    "peak_bytes",
    "ratio",
    "rounds",
    "set_output",
    "summary",
    "timing_options",
    "write",
]


def conditions(device: torch.device, clock: Clock, model: Any, **more: Any) -> dict[str, Any]:
    """What a figure must be read with: its record (benchmarks/record.py), machine, load and the model's shape.

    Args:
        device: that the model is on.
        clock: that the figures are timed with.
        model: as loaded.
        more: settings. Seeds are `draws` itself, or `seed`, or `seeds` many from `first_seed` on.

    Raises:
        TypeError: no seeds are given.
    """
    return {
        **record(_draws(more)),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": {"at_start": load_average()},
        "clock": clock.kind,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config.get_text_config()._attn_implementation,
        **more,
    }


def _draws(settings: Mapping[str, Any]) -> list[int]:
    if "draws" in settings:
        return list(settings["draws"])
    if "seed" in settings:
        return [settings["seed"]]
    if "seeds" in settings:
        first = settings.get("first_seed", 0)
        return list(range(first, first + settings["seeds"]))
    raise TypeError("the seeds of what is drawn belong to the conditions: draws=[...], empty where nothing is drawn")


def timing_options(parser: argparse.ArgumentParser, rounds: str, quick: str = "a smoke run on small shapes") -> None:
    """Add where times are taken, how often, and where they are written; `rounds` says the defaults of that option."""
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--rounds", type=int, help=f"rounds that count ({rounds})")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument(
        "--output", type=Path, help="the folder for the tables (default benchmarks/results/, none if --quick)"
    )
    parser.add_argument("--quick", action="store_true", help=quick)


def set_output(options: argparse.Namespace, name: str) -> None:
    """Say where tables go that nothing is said of: to the results of a name on the device, or nowhere if quick."""
    if options.output is None and not options.quick:
        options.output = tables.RESULTS / f"{name}-{options.device.split(':')[0]}"


def load_average() -> list[float]:
    """Processes that wanted to run, on average over the last 1, 5 and 15 minutes."""
    return [round(load, 2) for load in os.getloadavg()]


def cpu_name() -> str:
    """The processor's own name where the system tells it, with the vector instructions torch uses."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} ({torch.backends.cpu.get_cpu_capability()})"


def write(folder: Path, result: dict[str, Any]) -> None:
    """Write `result` as tables (benchmarks/tables.py), with the load average at the end added.

    Raises:
        ValueError: the conditions lack a part of the record (benchmarks/record.py).
    """
    about = result["conditions"]
    about.setdefault("load_average", {})["at_end"] = load_average()
    if missing := lacking(about):
        raise ValueError(f"the conditions of {folder.name} lack {', '.join(missing)}: see benchmarks/record.py")
    tables.write(folder, result)
