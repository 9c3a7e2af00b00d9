"""Bar charts as figures of matplotlib: time, memory, changed answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from . import palette
from .flips import Flips
from .phases import PHASES, bars_of
from .plot_style import GRID, INK, figure, short
from .results import Results

_MOST = 80
"""Rows; the page has them all."""


def _bars(rows: int) -> tuple[Figure, Any]:
    drawing = figure(8, 0.24 * rows + 1.1)
    axis = drawing.subplots()
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False)
    axis.grid(axis="x", color=GRID, lw=0.8)
    axis.set_axisbelow(True)
    axis.set_ylim(rows - 0.4, -0.6)
    return drawing, axis


def _name(axis: Any, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), [short(label) for label in labels], color=INK)


def times(results: Results) -> Figure | None:
    """Milliseconds per question by phase; None where no times were recorded."""
    bars = bars_of(results)[:_MOST]
    if not bars:
        return None
    drawing, axis = _bars(len(bars))
    for number, bar in enumerate(bars):
        left = 0.0
        for phase in PHASES:
            width = 1000 * bar.seconds[phase]
            if width > 0:
                axis.barh(number, width, left=left, height=0.72, color=palette.PHASES_LIGHT[phase], ec="white", lw=0.5)
                left += width
    for phase in PHASES:
        axis.barh(0, 0, color=palette.PHASES_LIGHT[phase], label=phase)
    _name(axis, [bar.setting.label for bar in bars])
    axis.set_xlabel("milliseconds per question, mean over tasks")
    drawing.legend(loc="outside upper center", ncols=4, frameon=False)
    return drawing


def memory(results: Results) -> Figure | None:
    """KV cache and prefill FLOPs in percent of unpruned; None where neither is known."""
    rows = [(s.label, s.cost()) for s in results.settings if math.isfinite(s.cost().kv_ratio)][:_MOST]
    if not rows:
        return None
    drawing, axis = _bars(len(rows))
    places = [number - 0.19 for number in range(len(rows))], [number + 0.19 for number in range(len(rows))]
    axis.barh(places[0], [100 * c.kv_ratio for _, c in rows], height=0.36, color=palette.LIGHT[5], label="KV cache")
    axis.barh(
        places[1], [100 * c.flops_ratio for _, c in rows], height=0.36, color=palette.LIGHT[0], label="prefill FLOPs"
    )
    _name(axis, [label for label, _ in rows])
    axis.set_xlabel("% of the same prompts unpruned")
    drawing.legend(loc="outside upper center", ncols=2, frameon=False)
    return drawing


def changed(changes: Sequence[Flips]) -> Figure | None:
    """Answers lost to the left and gained to the right; None where none changed."""
    changes = changes[:_MOST]
    if not any(c.lost or c.gained for c in changes):
        return None
    drawing, axis = _bars(len(changes))
    places = range(len(changes))
    axis.barh(places, [-len(c.lost) for c in changes], height=0.72, color=palette.LIGHT[1], label="lost")
    axis.barh(places, [len(c.gained) for c in changes], height=0.72, color=palette.LIGHT[0], label="gained")
    axis.axvline(0, color=INK, lw=1)
    axis.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    _name(axis, [c.setting.label for c in changes])
    axis.set_xlabel("questions whose answer became wrong (left) or right (right) against none")
    drawing.legend(loc="outside upper center", ncols=2, frameon=False)
    return drawing
