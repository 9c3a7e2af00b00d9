"""The leaderboards of several embedded models side by side: does the order of pruners hold from one to another?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import board
import numpy as np
from shared import ROOT, markdown, read

from benchmarks.leaderboard_rows import FLOORS
from vtokens.eval.metrics.intervals import bootstrap

FIRST = "scenes-llava"
OTHERS = ("scenes-qwen", "scenes-smol")
RESULTS = ROOT / "benchmarks" / "results"
Rows = Mapping[str, Mapping[str, Any]]
"""A model's rows at one keep, by strategy."""


def measured() -> tuple[str, ...]:
    """The models besides `FIRST` whose leaderboard is stored."""
    return tuple(model for model in OTHERS if (RESULTS / f"leaderboard-{model}").is_dir())


def parts() -> dict[str, Any]:
    """What docs/results.md shows of them: all side by side, then the table of each."""
    there = measured()
    tables = {f"leaderboard of {model}": partial(board.board, model) for model in there}
    return {"leaderboards": beside, **tables} if there else {}


def beside() -> str:
    """For each other model: accuracies beside those of `FIRST`, and in words how far the order is the same."""
    found = {model: read(f"leaderboard-{model}") for model in (FIRST, *measured())}
    return "\n".join(part for model in measured() for part in (_table(found, model), "", *_words(found, model), ""))


def _rows(found: Mapping[str, Any], keep: float) -> Rows:
    return {row["strategy"]: row for row in found["rows"] if row["keep"] == keep}


def _keeps(found: Mapping[str, Any], model: str) -> list[float]:
    both = [{row["keep"] for row in found[one]["rows"] if row["strategy"] != "none"} for one in (FIRST, model)]
    return sorted(both[0] & both[1], reverse=True)


def _table(found: Mapping[str, Any], model: str) -> str:
    """Every strategy that both have, all questions on both, at each keep; the best on the other model first."""
    keeps, full = _keeps(found, model), [_rows(found[one], 1.0)["none"] for one in (FIRST, model)]
    lines = [["`none`", *[_both(*full)] * len(keeps)]]
    pairs = {keep: [_rows(found[one], keep) for one in (FIRST, model)] for keep in keeps}
    names = set.intersection(*({*rows} for pair in pairs.values() for rows in pair))
    for name in sorted(names, key=lambda one: (-_value(pairs[keeps[-1]][1][one]), one)):
        lines.append([f"`{name}`", *(_both(one[name], other[name]) for one, other in pairs.values())])
    return markdown(["strategy", *(f"keep {keep:g}" for keep in keeps)], lines).rstrip("\n")


def _both(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return f"{_share(other)} ({100 * _value(first):.1f})"


def _words(found: Mapping[str, Any], model: str) -> list[str]:
    about = found[model]["conditions"]
    n = found[model]["rows"][0]["accuracy"]["all"]["n"]
    lines = [
        f"Right answers of 100 on {model}, of all questions, with 95% intervals over scenes, and those on {FIRST} in "
        f"parentheses; {n} questions ({about['questions_per_seed']} a draw, draws: {about['seeds']}). A rank "
        "correlation of 1 is the same order, of 0 none in common; its 95% interval is over strategies, drawn anew.",
        "",
    ]
    for keep in _keeps(found, model):
        one, other = _rows(found[FIRST], keep), _rows(found[model], keep)
        lines += [f"- **Keep {keep:g}.** {' '.join(_said(one, other, model))}"]
    return lines


def _said(one: Rows, other: Rows, model: str) -> list[str]:
    """What one keep shows, in sentences."""
    both = sorted(one.keys() & other.keys())
    alike = [name for name in both if _before(one, name) and _before(other, name)]
    values = {name: (_value(one[name]), _value(other[name])) for name in both}
    told = [
        f"The order on {model} has a rank correlation of {_correlation([values[name] for name in both])} with that on "
        f"{FIRST} over {len(both)} strategies, of {_correlation([values[name] for name in alike])} over the "
        f"{len(alike)} that act before the decoder.",
    ]
    first = [_best([name for name in alike if name not in FLOORS], rows) for rows in (one, other)]
    if first[0] == first[1]:
        level = [name for name in alike if name != first[0] and _value(other[name]) == _value(other[first[0]])]
        ties = f", here level with {', '.join(f'`{name}`' for name in level)}" if level else ""
        told.append(f"Of these `{first[0]}` is first on both{ties}.")
    else:
        overlap = _level(other[first[0]], other[first[1]])
        told.append(
            f"Of these `{first[1]}` is first here, with {_share(other[first[1]])}; `{first[0]}`, first on {FIRST}, has "
            f"{_share(other[first[0]])}{', and the intervals overlap' if overlap else ''}."
        )
    inside = [name for name in both if not _before(other, name)]
    if inside:
        name = _best(inside, other)
        tokens = other[name]["tokens_per_layer"]
        told.append(f"Inside the decoder `{name}` has most, {_share(other[name])}, for {tokens:.0f} tokens a layer.")
    better = [{name for name in both if rows[name].get("better")} for rows in (one, other)]
    parts = ((better[0] & better[1], "on both models"), (better[0] - better[1], f"only on {FIRST}"))
    for names, where in (*parts, (better[1] - better[0], f"only on {model}")):
        listed = f": {', '.join(f'`{name}`' for name in sorted(names))}" if len(names) <= 8 else ""
        if not names:
            continue
        told.append(f"{len(names)} {'is' if len(names) == 1 else 'are'} better than both floors {where}{listed}.")
    ranks = {name: tuple(_rank(name, both, rows) for rows in (one, other)) for name in both}
    moved = sorted(both, key=lambda name: (-abs(ranks[name][0] - ranks[name][1]), name))[:3]
    far = ", ".join(f"`{name}` ({ranks[name][0]} to {ranks[name][1]})" for name in moved)
    told.append(f"Furthest from their place on {FIRST}: {far}.")
    return told


def correlation(values: Any) -> float:
    """Spearman's rank correlation of two columns (n, 2), ties at their mean rank; NaN where a column has one value."""
    ranks = [_ranked(np.asarray(values)[:, column]) for column in (0, 1)]
    first, second = (rank - rank.mean() for rank in ranks)
    length = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / length if length else float("nan")


def _ranked(values: Any) -> Any:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _correlation(values: Sequence[tuple[float, float]]) -> str:
    if len(values) < 3:
        return "(too few)"
    found = bootstrap(values, correlation)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _before(rows: Rows, name: str) -> bool:
    """Whether a strategy leaves no more tokens a layer than random pruning does, and a tenth."""
    return bool(rows[name]["tokens_per_layer"] <= 1.1 * rows["random"]["tokens_per_layer"])


def _best(names: Sequence[str], rows: Rows) -> str:
    return min(names, key=lambda name: (-_value(rows[name]), name))


def _rank(name: str, names: Sequence[str], rows: Rows) -> int:
    return 1 + sum(_value(rows[one]) > _value(rows[name]) for one in names)


def _level(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    first, second = one["accuracy"]["all"], other["accuracy"]["all"]
    return bool(first["high"] >= second["low"] and second["high"] >= first["low"])


def _value(row: Mapping[str, Any]) -> float:
    return float(row["accuracy"]["all"]["value"])


def _share(row: Mapping[str, Any]) -> str:
    whole = row["accuracy"]["all"]
    return f"{100 * whole['value']:.1f} [{100 * whole['low']:.1f}, {100 * whole['high']:.1f}]"
