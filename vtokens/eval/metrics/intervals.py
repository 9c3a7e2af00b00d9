"""Intervals for one figure: Wilson's for shares, and the bootstrap for everything else."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtokens.core.wilson import check_confidence, wilson_bounds

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


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The share of `successes` in `n` independent trials with its score interval (Wilson, 1927).

    Raises ValueError unless 0 <= successes <= n, n >= 1 and 0 < confidence < 1.
    """
    low, high = wilson_bounds(successes, n, confidence)
    return Interval(successes / n, low, high, int(n))


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
    check_confidence(confidence)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    members, sizes = clusters(groups, len(rows))
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
    tail = (1 - confidence) / 2
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
        members, sizes = clusters(groups, len(counts))
        tries = int((np.add.reduceat(counts[members, 1], np.cumsum(sizes) - sizes) > 0).sum())
        found = wilson(tries if right else 0, tries, confidence)
    else:
        more: dict[str, Any] = {"groups": groups, "confidence": confidence, "resamples": resamples, "seed": seed}
        found = bootstrap(counts, _pooled, **more)
    return Interval(found.value, found.low, found.high, tried)


def _pooled(counts: Array) -> float:
    right, tried = counts.sum(axis=0)
    return float(right / tried) if tried else float("nan")


def clusters(groups: Sequence[Hashable] | None, n: int) -> tuple[Array, Array]:
    """Row numbers sorted by group, and the size of each group, groups in the order of their first row."""
    if groups is None:
        return np.arange(n), np.ones(n, dtype=int)
    if len(groups) != n:
        raise ValueError(f"groups must hold one label a row, got {len(groups)} for {n}")
    numbers: dict[Hashable, int] = {}
    labels = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    return np.argsort(labels, kind="stable"), np.bincount(labels)
