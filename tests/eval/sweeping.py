"""A small genuine sweep, run here or in a process that can be killed, and what of its results must not vary."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import traceback
from pathlib import Path
from typing import Any

import torch
import transformers

from vtokens.eval import sweep

SMALL: dict[str, Any] = {
    "model": "scenes-llava",
    "tasks": ["scenes_vqa", "scenes_pope_random"],
    "strategies": ["none", "random", "fastv"],
    "keeps": [0.25],
    "limit": 12,
    "batch_size": 4,
    "show": False,
}
TOTAL = 3 * 2 * 12  # answers of the small sweep
# What a sweep imports. Processes forked from a server that has it begin within milliseconds.
PRELOAD = [
    __name__,
    "lmms_eval.evaluator",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
    "vtokens.eval.lmms.model",
    "vtokens.eval.tasks",
]
CLOCKED = {"encode", "select", "prefill", "decode", "speedup", "created"}


def small(out: Path, **changes: Any) -> sweep.SweepOutcome | None:
    """Run the small sweep here."""
    return sweep.run(**{**SMALL, "out": out, **changes})


def started(
    out: Path, most: int | None = None, variables: dict[str, str] | None = None, **changes: Any
) -> multiprocessing.process.BaseProcess:
    """The small sweep in a process of its own.

    Args:
        most: limits the bytes of each file that it writes.
        variables: of its environment.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_child, args=(out, most, variables or {}, changes))
    process.start()
    return process


def answered(out: Path) -> int:
    """Whole lines in the journals."""
    return sum(path.read_bytes().count(b"\n") for path in (out / "answers").glob("*.jsonl"))


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file."""
    return [json.loads(text) for text in path.read_text().splitlines()]


def lasting(out: Path) -> dict[str, Any]:
    """Everything in a results folder that does not tell of time."""
    whole = {name: lines(out / name) for name in ("samples.jsonl", "results.jsonl")}
    whole |= {name: json.loads((out / name).read_text()) for name in ("manifest.json", "summary.json")}
    whole |= {path.name: sorted(lines(path), key=lambda row: (row["task"], row["doc"])) for path in _journals(out)}
    return {name: _without_times(content) for name, content in whole.items()}


def _journals(out: Path) -> list[Path]:
    return sorted((out / "answers").iterdir())


def _without_times(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_times(value) for key, value in content.items() if key not in CLOCKED}
    return [_without_times(entry) for entry in content] if isinstance(content, list) else content


def _child(out: Path, most: int | None, variables: dict[str, str], changes: dict[str, Any]) -> None:
    os.environ |= variables
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        small(out, **changes)
    except OSError:
        (out.parent / f"{out.name}.error").write_text(traceback.format_exc()[-most:] if most else "")
        raise
