"""Intervals for one figure, and tests for two strategies on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Interval:
    """`value` with its confidence interval from `low` to `high`; `n` is how many things were counted."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Paired:
    """Samples that only the first got right, that only the second did, and the two-sided p-value."""

    only_a: int
    only_b: int
    p_value: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The share of `successes` in `n` independent trials with its score interval (Wilson, 1927).

    Raises ValueError unless 0 <= successes <= n, n >= 1 and 0 < confidence < 1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got successes={successes}, n={n}")
    from scipy.stats import binomtest

    found = binomtest(int(successes), int(n)).proportion_ci(_checked(confidence), method="wilson")
    return Interval(successes / n, float(found.low), float(found.high), int(n))


def bootstrap(
    values: Any,
    statistic: Callable[[Array], float],
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap of any statistic (Efron and Tibshirani, 1993, chapter 13).

    Args:
        values: array-like with one row a sample, (n, ...), without NaN.
        statistic: what is asked of rows: (rows, ...) -> a number. A resample where it is NaN (0 / 0) is left out.
        groups: one label a row. Rows of one label are drawn together: questions about one picture, say.
        resamples: how many times to draw as many groups as there are, with replacement.

    Returns:
        The statistic of all rows, with its interval; a single group tells nothing of the spread, and its interval
        has no width.

    Raises ValueError for no rows, NaN, labels of another number than rows, or a statistic that is NaN on all rows.
    """
    rows = np.asarray(values)
    if rows.ndim == 0 or len(rows) == 0:
        raise ValueError(f"values must have at least one row, got an array of shape {rows.shape}")
    if rows.dtype.kind == "f" and np.isnan(rows).any():
        raise ValueError(f"values has {int(np.isnan(rows).sum())} NaN among {rows.size}; leave such samples out")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    members, sizes = _members(groups, len(rows))
    starts = np.cumsum(sizes) - sizes
    value = float(statistic(rows))
    if np.isnan(value):
        raise ValueError("the statistic is NaN on all rows, so it has no interval")
    rng = np.random.default_rng(seed)
    found = np.empty(resamples)
    for number in range(resamples):
        drawn = rng.integers(len(sizes), size=len(sizes))
        size = sizes[drawn]
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        found[number] = statistic(rows[members[np.repeat(starts[drawn], size) + within]])
    tail = (1 - _checked(confidence)) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail])
    return Interval(value, float(low), float(high), len(rows))


def ratio(
    hits: Any,
    trials: Any,
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """The share sum(hits) / sum(trials) over samples that may count several times, or None where nothing was tried.

    Args:
        hits, trials: counts, one a sample, 0 <= hits <= trials. `n` of the interval is the sum of the trials.
        groups: as in `bootstrap`.

    The interval is Wilson's where every sample counts once or not at all and stands alone; otherwise the samples (or
    groups) are bootstrapped. All or no hits leave a bootstrap without width: there it is Wilson's over the samples (or
    groups) that were tried, as if each had counted once.
    """
    counts = np.column_stack([np.asarray(hits), np.asarray(trials)])
    if (counts[:, 0] < 0).any() or (counts[:, 0] > counts[:, 1]).any():
        raise ValueError("every sample needs 0 <= hits <= trials")
    right, tried = (int(total) for total in counts.sum(axis=0))
    if not tried:
        return None
    if groups is None and counts[:, 1].max() == 1:
        return wilson(right, tried, confidence)
    if right in (0, tried):
        members, sizes = _members(groups, len(counts))
        clusters = int((np.add.reduceat(counts[members, 1], np.cumsum(sizes) - sizes) > 0).sum())
        found = wilson(clusters if right else 0, clusters, confidence)
    else:
        more: dict[str, Any] = {"groups": groups, "confidence": confidence, "resamples": resamples, "seed": seed}
        found = bootstrap(counts, _pooled, **more)
    return Interval(found.value, found.low, found.high, tried)


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> Paired:
    """McNemar's exact test of whether two strategies are right equally often on the same samples.

    Only samples that one of them got right count; under the null hypothesis each of them is a fair coin
    (McNemar, 1947). With none such, p is 1. Raises ValueError for lists of different length, TypeError for other than
    bools.
    """
    from scipy.stats import binomtest

    first, second = bools("a", a), bools("b", b)
    if len(first) != len(second):
        raise ValueError(f"a and b must be the same samples, got {len(first)} and {len(second)}")
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    differ = only_a + only_b
    return Paired(only_a, only_b, float(binomtest(only_a, differ).pvalue) if differ else 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in the order given: below alpha is significant family-wise (Holm, 1979).

    Raises ValueError for a p-value outside [0, 1] or NaN.
    """
    given = np.asarray(p_values, dtype=float)
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"p-values must be in [0, 1], got {list(p_values)}")
    order = np.argsort(given, kind="stable")
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)), 1)
    return [float(p) for p in adjusted]


def _pooled(counts: Array) -> float:
    right, tried = counts.sum(axis=0)
    return float(right / tried) if tried else float("nan")


def _members(groups: Sequence[Hashable] | None, n: int) -> tuple[Array, Array]:
    """Row numbers sorted by group, and the size of each group, groups in the order of their first row."""
    if groups is None:
        return np.arange(n), np.ones(n, dtype=int)
    if len(groups) != n:
        raise ValueError(f"groups must hold one label a row, got {len(groups)} for {n}")
    numbers: dict[Hashable, int] = {}
    labels = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    return np.argsort(labels, kind="stable"), np.bincount(labels)


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return confidence


def bools(name: str, values: Sequence[bool]) -> Array:
    """`values` as an array of bools; TypeError naming the first value that is none."""
    if not all(isinstance(value, (bool, np.bool_)) for value in values):
        wrong = next(value for value in values if not isinstance(value, (bool, np.bool_)))
        raise TypeError(f"{name} must hold bools, got {wrong!r}")
    return np.asarray(values, dtype=bool)
