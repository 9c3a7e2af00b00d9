"""Scatter plots as figures of matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from .charts import Chart, ChartMark, apart
from .palette import Style
from .plot_style import GRID, INK, colour, figure, short

_STEP = 0.013
"""Between marks of the same x, as a share of the axis."""


def scatters(styles: dict[str, Style], charts: Sequence[Chart]) -> Figure | None:
    """The charts as panels with one legend; None where no chart has a mark."""
    charts = [chart for chart in charts if chart.marks]
    if not charts:
        return None
    columns = min(3, len(charts))
    rows, beside = math.ceil(len(charts) / columns), 2 * columns
    width = max(3.9 * columns, 5.2)
    drawing = figure(width, 3.1 * rows + 0.3 * math.ceil(len(styles) / beside) + 0.2)
    for axis, chart in zip(drawing.subplots(rows, columns, squeeze=False).flat, charts, strict=False):
        _scatter(axis, chart, styles)
    for axis in drawing.axes[len(charts) :]:
        axis.set_axis_off()
    shown = {mark.setting.name for chart in charts for mark in chart.marks}
    handles = [
        drawing.axes[0].plot([], [], **_look(styles[name]), label=short(name))[0] for name in styles if name in shown
    ]
    drawing.legend(handles=handles, loc="outside lower center", ncols=beside, frameon=False)
    return drawing


def _look(style: Style) -> dict[str, Any]:
    face = "white" if style.colour is None else colour(style)
    edge = INK if style.colour is None else "white"
    return {"color": colour(style), "marker": style.marker, "mfc": face, "mec": edge, "ms": 7, "lw": 1.3}


def _scatter(axis: Any, chart: Chart, styles: dict[str, Style]) -> None:
    unit = 100 if chart.percent else 1
    axis.set_title(chart.title, fontsize=10, loc="left", color=INK)
    axis.set_xlabel(chart.x_label)
    axis.set_ylabel(chart.y_label)
    axis.grid(axis="y", color=GRID, lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    if chart.log:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
    base = chart.baseline
    if base is not None:
        axis.axhline(unit * base.value, color=INK, lw=1, ls=(0, (6, 4)), alpha=0.6, zorder=1)
        if math.isfinite(base.low + base.high):
            axis.axhspan(unit * base.low, unit * base.high, color=INK, alpha=0.07, lw=0, zorder=0)
    series: dict[str, list[tuple[float, ChartMark]]] = {}
    for mark, x in sorted(zip(chart.marks, _aside(chart), strict=True), key=lambda pair: pair[1]):
        series.setdefault(mark.setting.name, []).append((x, mark))
    for name, points in series.items():
        for x, mark in points:
            if math.isfinite(mark.low + mark.high):
                ends = [unit * mark.low, unit * mark.high]
                axis.plot([x] * 2, ends, color=colour(styles[name]), lw=1.2, alpha=0.65, zorder=2)
        axis.plot([x for x, _ in points], [unit * m.value for _, m in points], **_look(styles[name]), zorder=3)
    if chart.front:
        across, up = [m.x for m in chart.front], [unit * m.value for m in chart.front]
        start = min(axis.get_xlim()[0], across[0])
        axis.step([start, *across], [up[0], *up], color=INK, lw=1.2, ls=":", where="pre", zorder=2)
        axis.plot(across, up, "o", ms=13, mfc="none", mec=INK, mew=1.3, zorder=4)


def _aside(chart: Chart) -> list[float]:
    """Where each mark is drawn: those of the same x stand side by side."""
    change, back = (math.log, math.exp) if chart.log else (float, float)
    at = [change(mark.x) for mark in chart.marks]
    step = _STEP * ((max(at) - min(at)) or abs(at[0]) or 1.0)
    return [back(x + step * place) for x, place in zip(at, apart(chart.marks), strict=True)]
