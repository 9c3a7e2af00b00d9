"""What the benchmarks share: the package's own measuring, and how a result is written."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

import vtokens
from benchmarks import tables
from vtokens.core.timing import Clock, peak_bytes, ratio, rounds, summary

__all__ = ["Clock", "conditions", "cpu_name", "peak_bytes", "ratio", "rounds", "summary", "write"]


def conditions(device: torch.device, clock: Clock, model: Any, **more: Any) -> dict[str, Any]:
    """What a figure must be read with: command, versions, machine, load and the model's shape."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
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


def write(folder: Path, result: dict[str, Any]) -> None:
    """Write `result` as tables (benchmarks/tables.py), with the load average at the end added."""
    result["conditions"]["load_average"]["at_end"] = [round(load, 2) for load in os.getloadavg()]
    tables.write(folder, result)
