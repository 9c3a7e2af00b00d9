"""Headlines of a sweep: sentences that are derived from its figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .relative import SIGNIFICANT, RelativeRow, averaged
from .results import NAN, Metric, Results, Score

NEAR = 95.0
"""Percent of `none` that counts as near."""
_SAME = "No significant loss"
_FEW = "Too few questions"


@dataclass(frozen=True)
class Headline:
    """A headline, the setting it is about (or None), and a sentence."""

    title: str
    label: str | None
    text: str


@dataclass(frozen=True)
class Podium:
    """The settings of one keep by average percent of `none`, the best first."""

    keep: float | int
    rows: tuple[RelativeRow, ...]


def least(tests: int) -> int:
    """How many questions of a task are needed before the lack of a significant difference means anything.

    That is when losing 5% of them (what `NEAR` leaves) and winning none would be significant: McNemar's exact test
    gives d such questions 2 * 0.5**d, which Holm's correction multiplies by the number of tests. A single one takes
    d = 6, so 120 questions. Below that a setting can lose the 5% and no test would say so.

    Args:
        tests: how many p-values were corrected together.
    """
    lost = math.floor(math.log2(2 * max(tests, 1) / SIGNIFICANT)) + 1
    return math.ceil(lost / (1 - NEAR / 100))


def findings(results: Results, rows: list[RelativeRow]) -> list[Headline]:
    """The fastest setting without a measurable loss, and the fastest near `none`.

    Nothing without `none`; nothing but that they are too few where a task has fewer than `least` questions.
    """
    base = results.baseline
    pruned = [row for row in rows if base and row.setting.key != base.key and math.isfinite(row.setting.cost().speedup)]
    if not pruned:
        return []
    tested = [m for m in results.headlines if any(_known(row, m) for row in pruned)]
    tests = sum(math.isfinite(score.p_value) for part in results.settings for score in part.scores.values())
    asked = [_questions(row, m) for row in pruned for m in {*tested, *averaged(results)} if _score(row, m) is not None]
    if asked and min(asked) < least(tests):
        return [
            Headline(
                _FEW, None,
                f"A task has {_count(min(asked), 'question')}: what is lost or kept on so few is chance. With "
                f"{_count(tests, 'comparison')} it takes {least(tests)} of a task to see a loss of {100 - NEAR:g}%.",
            )
        ]  # fmt: skip
    found = []
    if tested:
        same = [
            row
            for row in pruned
            if all(_known(row, m) for m in tested) and not any(entry and entry.worse for entry in row.entries)
        ]
        few = min(row.setting.scores[m.task, m.name].n for row in pruned for m in tested if _known(row, m))
        where = f"on {_count(len(tested), 'task')} with {_count(few, 'question')} or more each"
        found.append(
            _fastest(same, _SAME, f"The fastest setting that no paired test shows to be worse than none, {where}.")
            or Headline(
                _SAME, None, f"Every pruned setting is significantly worse than none or was not tested, {where}."
            )
        )
    near = [row for row in pruned if row.average >= NEAR]
    what = f"{NEAR:g}% of none kept"
    found.append(
        _fastest(near, what, f"The fastest setting with an average of at least {NEAR:g}% of the unpruned model.")
        or Headline(what, None, f"No pruned setting reaches {NEAR:g}% of the unpruned model on average.")
    )
    return found


def podiums(rows: list[RelativeRow]) -> list[Podium]:
    """For each keep that two settings or more share, these settings by average."""
    keeps: dict[str, list[RelativeRow]] = {}
    for row in rows:
        if row.setting.keep is not None and math.isfinite(row.average):
            keeps.setdefault(repr(row.setting.keep), []).append(row)
    return [
        Podium(group[0].setting.keep or 0, tuple(sorted(group, key=lambda row: -row.average)))
        for group in keeps.values()
        if len(group) > 1
    ]


def _fastest(rows: list[RelativeRow], title: str, text: str) -> Headline | None:
    if not rows:
        return None
    best = max(rows, key=lambda row: row.setting.cost().speedup)
    cost = best.setting.cost()
    if round(cost.speedup, 2) <= 1:
        later = f"{best.setting.label} comes nearest, with a first token after {1 / cost.speedup:.2f} times as long"
        return Headline(title, None, f"{text.replace('The fastest', 'No', 1)[:-1]} is faster than none: {later}.")
    figures = [f"first token {cost.speedup:.2f} times sooner"]
    if math.isfinite(cost.kv_ratio):
        figures.append(f"{100 * cost.kv_ratio:.0f}% of the KV cache")
    if math.isfinite(best.average):
        figures.append(f"{best.average:.1f}% of none")
    sentence = ", ".join(figures)
    return Headline(title, best.setting.label, f"{text} {sentence[0].upper()}{sentence[1:]}.")


def _score(row: RelativeRow, metric: Metric) -> Score | None:
    return row.setting.scores.get((metric.task, metric.name))


def _questions(row: RelativeRow, metric: Metric) -> int:
    """Questions of one seed, since several may have asked the same."""
    score = _score(row, metric)
    return score.n // max(score.seeds, 1) if score else 0


def _p(row: RelativeRow, metric: Metric) -> float:
    score = _score(row, metric)
    return score.p_value if score else NAN


def _known(row: RelativeRow, metric: Metric) -> bool:
    return math.isfinite(_p(row, metric))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
