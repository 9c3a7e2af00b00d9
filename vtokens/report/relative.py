"""Accuracy in percent of the unpruned model's, the way papers print it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .results import BASELINE, NAN, Metric, Results, StrategyAtKeep, mean, order

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class RelativeScore:
    """A setting on a task.

    Attributes:
        value: of the metric.
        percent: of `none`; NaN without one, or where less is better and a percentage would mislead.
        change: value less that of `none`, NaN without one.
        worse, better: the difference from `none` is significant after Holm's correction.
        best: no setting of the same keep has a better value.
    """

    metric: Metric
    value: float
    percent: float
    change: float
    worse: bool
    better: bool
    best: bool

    @property
    def loss(self) -> float:
        """How deep to tint: 0 for nothing lost, 1 for half of the value of `none`, or 50 points, or more."""
        lost = (100 - self.percent) / 50 if math.isfinite(self.percent) else -2 * self.metric.better * self.change
        return min(lost, 1.0) if lost > 0 else 0.0


@dataclass(frozen=True)
class RelativeRow:
    """A setting on every task; `average` is the mean percent over the tasks where more is better."""

    setting: StrategyAtKeep
    entries: tuple[RelativeScore | None, ...]
    average: float
    best: bool
    leads: bool


def percent(results: Results, setting: StrategyAtKeep, metric: Metric) -> float:
    """100 x value / value of `none`; NaN where either is missing, `none` scores nothing, or less is better."""
    base, score = _base(results, metric), setting.scores.get((metric.task, metric.name))
    return 100 * score.value / base if score and base and metric.better >= 0 else NAN


def average(results: Results, setting: StrategyAtKeep) -> float:
    """The mean percent over all tasks where more is better; NaN if one of them is missing."""
    parts = [percent(results, setting, metric) for metric in averaged(results)]
    return mean(parts) if parts and all(map(math.isfinite, parts)) else NAN


def averaged(results: Results) -> list[Metric]:
    """The headline metrics that go into the average: more is better, and `none` has a figure that is not zero."""
    base = results.baseline
    return [m for m in results.headlines if base and m.better == 1 and math.isfinite(percent(results, base, m))]


def table(results: Results) -> list[RelativeRow]:
    """All settings, grouped by keep from large to small, `none` first and settings without a keep last."""
    groups: dict[object, list[StrategyAtKeep]] = {}
    for setting in results.settings:
        groups.setdefault((setting.name == BASELINE, repr(setting.keep)), []).append(setting)
    ordered = sorted(groups.values(), key=lambda group: (group[0].name != BASELINE, order(group[0].keep)))
    return [row for group in ordered for row in _group(results, group)]


def _group(results: Results, group: list[StrategyAtKeep]) -> list[RelativeRow]:
    values = {
        m: [s.scores[m.task, m.name].value for s in group if (m.task, m.name) in s.scores] for m in results.headlines
    }
    tops = {m: max((m.better * v for v in found if math.isfinite(v)), default=NAN) for m, found in values.items()}
    averages = [average(results, setting) for setting in group]
    top = max((a for a in averages if math.isfinite(a)), default=NAN)
    contest = len(group) > 1
    rows = []
    for number, (setting, found) in enumerate(zip(group, averages, strict=True)):
        entries: list[RelativeScore | None] = []
        for m in results.headlines:
            score = setting.scores.get((m.task, m.name))
            if score is None:
                entries.append(None)
                continue
            change = score.value - _base(results, m)
            sure = score.p_value < SIGNIFICANT
            best = contest and m.better != 0 and m.better * score.value == tops[m]
            entries.append(
                RelativeScore(
                    m, score.value, percent(results, setting, m), change, sure and m.better * change < 0,
                    sure and m.better * change > 0, best,
                )
            )  # fmt: skip
        rows.append(RelativeRow(setting, tuple(entries), found, contest and found == top, number == 0))
    return rows


def _base(results: Results, metric: Metric) -> float:
    score = results.baseline.scores.get((metric.task, metric.name)) if results.baseline else None
    return score.value if score else NAN
