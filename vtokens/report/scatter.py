"""Scatter plots as SVG panels: data coordinates turned into pixels; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.ticker import LogLocator, MaxNLocator

from .charts import Chart, ChartMark, apart
from .palette import Style
from .results import BASELINE

WIDTH, HEIGHT = 380, 272
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 14, 40
_STEP = 5.0
"""How far points are set apart that fall on the same x, in pixels."""
_PLACES = ((9, -7, "start"), (0, -12, "middle"), (-9, -7, "end"), (10, 4, "start"), (-10, 4, "end"), (0, 19, "middle"))
"""Where a name may stand beside its point, the best first."""

_LONG = 26
"""Characters of a name that is left to the tooltip."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Dot:
    """A mark in pixels; `low` and `high` are the ends of its whisker, `tip` its text."""

    mark: ChartMark
    style: Style
    x: float
    y: float
    low: float | None
    high: float | None
    tip: tuple[str, ...]
    front: bool


@dataclass(frozen=True)
class Label:
    """The name of a mark at a point."""

    mark: ChartMark
    x: float
    y: float
    anchor: str

    @property
    def text(self) -> str:
        """The text of the label."""
        return self.mark.setting.label


@dataclass(frozen=True)
class Panel:
    """A chart in pixels. lines: SVG paths of the strategies with several keeps; front: that of the Pareto front."""

    chart: Chart
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    dots: tuple[Dot, ...]
    lines: tuple[tuple[str, Style, str], ...]
    front: str
    labels: tuple[Label, ...]

    @property
    def baseline(self) -> Dot | None:
        """The dot of `none`."""
        return next((dot for dot in self.dots if dot.mark.setting.name == BASELINE), None)


def panel(chart: Chart, styles: dict[str, Style]) -> Panel:
    """Lay a chart out."""
    unit = 100 if chart.percent else 1
    ends = [v for m in chart.marks for v in (m.value, m.low, m.high) if math.isfinite(v)]
    y_axis = _axis([unit * v for v in ends], HEIGHT - BOTTOM, TOP, False, chart.percent)
    x_axis = _axis([m.x for m in chart.marks], LEFT, WIDTH - RIGHT, chart.log, False)

    def y(value: float) -> float | None:
        return round(y_axis[0](unit * value), 1) if math.isfinite(value) else None

    shifts = [_STEP * place for place in apart(chart.marks)]
    dots = tuple(
        Dot(
            mark, styles[mark.setting.name], round(x_axis[0](mark.x) + shift, 1), y(mark.value) or 0.0,
            y(mark.low), y(mark.high), _tip(chart, mark), mark in chart.front,
        )
        for mark, shift in zip(chart.marks, shifts, strict=True)
    )  # fmt: skip
    series: dict[str, list[Dot]] = {}
    for dot in sorted(dots, key=lambda d: d.x):
        series.setdefault(dot.mark.setting.name, []).append(dot)
    lines = tuple((name, styles[name], _path(part)) for name, part in series.items() if len(part) > 1)
    front = sorted((dot for dot in dots if dot.front), key=lambda d: d.x)
    return Panel(chart, x_axis[1], y_axis[1], dots, lines, _steps(front), _labels(front, dots))


def _axis(
    values: Sequence[float], start: float, end: float, log: bool, percent: bool
) -> tuple[Callable[[float], float], tuple[tuple[float, str], ...]]:
    """The function from data to pixels, and the ticks as (pixel, text)."""
    change: Callable[[float], float] = math.log2 if log else float
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    at, to = change(low), change(high)
    room = 0.07 * (to - at) or max(abs(at), 1.0) * 0.1
    at, to = at - room, to + room
    if percent:
        at, to = max(at, -2.0), min(to, 102.0)

    def pixel(value: float) -> float:
        return start + (change(value) - at) / (to - at) * (end - start)

    ticks = [float(t) for t in _ticks(at, to, log)]
    inside = (
        [t for t in ticks if at <= change(t) <= to]
        if not log
        else [t for t in ticks if t > 0 and at <= change(t) <= to]
    )
    return pixel, tuple((round(pixel(t), 1), f"{t:g}") for t in inside)


def _ticks(at: float, to: float, log: bool) -> Sequence[float]:
    if not log:
        return [float(f"{t:.10g}") for t in MaxNLocator(5).tick_values(at, to)]
    return list(LogLocator(base=10, subs=(1, 2, 5), numticks=20).tick_values(2**at, 2**to))


def _path(dots: Sequence[Dot]) -> str:
    return "M" + "L".join(f"{dot.x},{dot.y}" for dot in dots)


def _steps(front: Sequence[Dot]) -> str:
    """A front is a staircase: up to each point's x, its value can be had."""
    if not front:
        return ""
    parts = [f"M{LEFT},{front[0].y}H{front[0].x}"]
    parts += [f"V{dot.y}H{dot.x}" for dot in front[1:]]
    return "".join(parts)


def _labels(front: Sequence[Dot], dots: Sequence[Dot]) -> tuple[Label, ...]:
    """The names of the front's points, where there is room for them beside all points and other names."""
    taken = [(dot.x - 5, dot.y - 5, dot.x + 5, dot.y + 5) for dot in dots]
    found: list[Label] = []
    for dot in reversed(front):
        text = dot.mark.setting.label
        if len(text) > _LONG:
            continue
        width = 6.3 * len(text)
        for across, down, anchor in _PLACES:
            x, y = dot.x + across, dot.y + down
            left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            box = (left, y - 9, left + width, y + 2)
            inside = box[0] > LEFT and box[2] < WIDTH and box[1] > 0 and box[3] < HEIGHT - BOTTOM
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                found.append(Label(dot.mark, round(x, 1), round(y, 1), anchor))
                break
    return tuple(found)


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _tip(chart: Chart, mark: ChartMark) -> tuple[str, ...]:
    unit = 100 if chart.percent else 1
    value = f"{chart.y_label}: {unit * mark.value:.4g}"
    if math.isfinite(mark.low) and math.isfinite(mark.high):
        value += f" [{unit * mark.low:.4g}, {unit * mark.high:.4g}]"
    return mark.setting.label, value, f"{chart.x_label}: {mark.x:.4g}"
