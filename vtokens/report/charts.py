"""The scatter plots in units of the data; the page and the PNG files draw the same charts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .relative import average
from .results import BASELINE, NAN, Metric, Results, Score, StrategyAtKeep

_ASIDE = 5
"""Places that marks of the same x take up at most."""


@dataclass(frozen=True)
class ChartMark:
    """One setting in a chart; `low` and `high` are NaN where the value has no interval."""

    setting: StrategyAtKeep
    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """A scatter plot.

    Attributes:
        title: the task, or what is averaged.
        y_label, x_label: axis labels with units.
        marks: the settings with both coordinates, `none` among them.
        front: the marks no other one beats in both directions, by x; empty where x is no measurement.
        log: whether x is logarithmic.
        percent: whether values are shares to be shown in percent.
    """

    title: str
    y_label: str
    x_label: str
    marks: tuple[ChartMark, ...]
    front: tuple[ChartMark, ...]
    log: bool
    percent: bool

    @property
    def baseline(self) -> ChartMark | None:
        """The unpruned mark."""
        return next((mark for mark in self.marks if mark.setting.name == BASELINE), None)


def pareto(marks: Sequence[ChartMark], better: int) -> tuple[ChartMark, ...]:
    """The marks that none beats: no other has as much of x and a better value, or more of x and as good a value.

    better: 1 if more is better, -1 if less is, 0 for no front.
    """
    front: list[ChartMark] = []
    if not better:
        return ()
    for mark in sorted(marks, key=lambda m: (-m.x, -better * m.value)):
        if not front or better * mark.value > better * front[-1].value:
            front.append(mark)
    return tuple(reversed(front))


def apart(marks: Sequence[ChartMark]) -> list[float]:
    """For each mark how many places it stands aside, so that marks of the same x are seen side by side.

    Three stand at -1, 0 and 1; many stand closer.
    """
    found = [0.0] * len(marks)
    places: dict[str, list[int]] = {}
    for number, mark in enumerate(marks):
        places.setdefault(f"{mark.x:.3g}", []).append(number)
    for group in places.values():
        narrow = min(1.0, _ASIDE / len(group))
        for rank, number in enumerate(group):
            found[number] = narrow * (rank - (len(group) - 1) / 2)
    return found


def against_tokens(results: Results, metric: Metric) -> Chart:
    """A metric against the visual tokens that a decoder layer sees on average."""
    marks = _marks(results, metric, lambda setting: setting.costs[metric.task].kept_tokens)
    return Chart(
        metric.task, _label(metric), "visual tokens, layer average", marks, (), _wide(marks), metric.share
    )  # fmt: skip


def against_speed(results: Results, metric: Metric) -> Chart:
    """A metric against the measured speed of the first token, with its Pareto front."""
    marks = _marks(results, metric, lambda setting: setting.costs[metric.task].speedup)
    front = pareto(marks, metric.better)
    return Chart(
        metric.task, _label(metric), "first token: times as fast as none", marks, front, False, metric.share
    )  # fmt: skip


def summary_charts(results: Results) -> tuple[Chart, Chart] | None:
    """The average over tasks in percent of `none`, against the share of tokens and against the speed.

    None where there is no `none`, or a single task, whose own charts say it all.
    """
    if results.baseline is None or len(results.headlines) < 2:
        return None
    shares, ups = [], []
    for setting in results.settings:
        value, cost = average(results, setting), setting.cost()
        if math.isfinite(value):
            kept = 100 * cost.kept_tokens / cost.visual_tokens if cost.visual_tokens else NAN
            shares.append(ChartMark(setting, kept, value, NAN, NAN))
            ups.append(ChartMark(setting, cost.speedup, value, NAN, NAN))
    tokens, speed = (tuple(m for m in part if math.isfinite(m.x) and m.x > 0) for part in (shares, ups))
    title, label = "all tasks", "% of none, mean over tasks"
    return (
        Chart(title, label, "visual tokens kept, layer average (%)", tokens, (), _wide(tokens), False),
        Chart(title, label, "first token: times as fast as none", speed, pareto(speed, 1), False, False),
    )


def _marks(results: Results, metric: Metric, x: Callable[[StrategyAtKeep], float]) -> tuple[ChartMark, ...]:
    found = []
    for setting in results.settings:
        score: Score | None = setting.scores.get((metric.task, metric.name))
        if score is None or metric.task not in setting.costs:
            continue
        mark = ChartMark(setting, x(setting), score.value, score.low, score.high)
        if math.isfinite(mark.x) and mark.x > 0 and math.isfinite(mark.value):
            found.append(mark)
    return tuple(found)


def _wide(marks: Sequence[ChartMark]) -> bool:
    """Keeps are halved again and again, so a wide range of tokens is drawn on a logarithmic axis."""
    return bool(marks) and max(m.x for m in marks) > 4 * min(m.x for m in marks)


def _label(metric: Metric) -> str:
    return f"{metric.name}{' (%)' if metric.share else ''}{', less is better' if metric.better < 0 else ''}"
