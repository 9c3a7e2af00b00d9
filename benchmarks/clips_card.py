"""Fills the tables of scenes-qwen's card from results of benchmarks/clips.py: `python benchmarks/clips_card.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import tables  # noqa: E402
from benchmarks.page import Page  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.scenes import clips  # noqa: E402


def measured(table: Callable[[list[dict[str, Any]]], str], result: str) -> str:
    """A table of what was measured of accuracy."""
    return table(tables.read(f"clips-{result}")["accuracy"])


def accuracy(rows: list[dict[str, Any]]) -> str:
    """Every kind of question, about pictures and about clips, unpruned."""
    found = {kind: row[kind] for row in rows for kind in (*scenes.KINDS, *clips.KINDS) if kind in row}
    overall = {bool(row["frames"]): row["overall"] for row in rows}
    lines = [[kind, "clips" if kind in clips.KINDS else "pictures", _counted(part)] for kind, part in found.items()]
    lines += [["all", "clips" if moving else "pictures", _counted(part)] for moving, part in sorted(overall.items())]
    return tables.markdown(["kind", "of", "accuracy"], lines)


def pruning(rows: list[dict[str, Any]]) -> str:
    """Overall accuracy, a row a strategy and a column a keep."""
    keeps = sorted({float(row["keep"]) for row in rows if row["strategy"] != "none"}, reverse=True)
    lines = []
    for spec in dict.fromkeys(row["strategy"] for row in rows):
        own = {float(row["keep"]): _counted(row["overall"]) for row in rows if row["strategy"] == spec}
        lines.append([f"`{spec}`", *(own.get(keep, own.get(1.0, "")) for keep in keeps)])
    return tables.markdown(["strategy", *(f"keep {keep:g}" for keep in keeps)], lines)


def needle(rows: list[dict[str, Any]]) -> str:
    """Accuracy by strategy and keep, a column for each number of frames."""
    frames = sorted({int(row["frames"]) for row in rows})
    about: dict[tuple[str, float], dict[int, str]] = {}
    for row in rows:
        about.setdefault((row["strategy"], float(row["keep"])), {})[int(row["frames"])] = _counted(row["needle"])
    lines = [[f"`{spec}`", f"{keep:g}", *(at.get(one, "") for one in frames)] for (spec, keep), at in about.items()]
    return tables.markdown(["strategy", "keep", *(f"{one} frames" for one in frames)], lines)


def memory(rows: list[dict[str, Any]]) -> str:
    """The peak of one question over strategies and keeps, and keys and values that are cached at each keep."""
    keeps = sorted({float(row["keep"]) for row in rows if row.get("kv_bytes")}, reverse=True)
    lines = []
    for frames in sorted({int(row["frames"]) for row in rows}):
        own = [row for row in rows if int(row["frames"]) == frames]
        peaks = [row["peak_bytes"] / 2**20 for row in own if row.get("peak_bytes")]
        cached = {
            float(row["keep"]): row["kv_bytes"] for row in own if row.get("kv_bytes") and row["strategy"] == "random"
        }
        full = next(row["kv_bytes_full"] for row in own if row.get("kv_bytes_full"))
        sizes = [full, *(cached.get(keep) for keep in keeps)]
        told = [f"{size / 2**20:.2f}" if size else "" for size in sizes]
        lines.append([str(frames), f"{32 * frames:,}", f"{min(peaks):.1f} to {max(peaks):.1f}", *told])
    head = [
        "frames",
        "visual tokens",
        "peak of a question, MiB",
        "KV cache, MiB",
        *(f"at keep {keep:g}" for keep in keeps),
    ]
    return tables.markdown(head, lines)


def _counted(part: dict[str, float]) -> str:
    return f"{tables.interval(part)} (n={part['n']:.0f})"


PAGE = Page(
    scenes.embedded_path("scenes-qwen") / "README.md",
    "python benchmarks/clips_card.py",
    {
        "accuracy": partial(measured, accuracy, "accuracy"),
        "pruning": partial(measured, pruning, "pruning"),
        "needle": partial(measured, needle, "needle"),
        "memory": partial(measured, memory, "needle"),
    },
)

if __name__ == "__main__":
    PAGE.write()
