"""Two strategies on the same samples: is one better, and by how much?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtokens.core.extras import needs

from .intervals import Array, Interval, bootstrap


@dataclass(frozen=True)
class Paired:
    """Samples that only the first got right, that only the second did, and the two-sided p-value."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> Paired:
    """McNemar's exact test of whether two strategies are right equally often on the same samples.

    Only samples that one of them got right count; under the null hypothesis each of them is a fair coin
    (McNemar, 1947). With none such, p is 1. Raises ValueError for lists of different length, TypeError for other than
    bools.
    """
    with needs("filter", "McNemar's test"):
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


def difference(
    a: tuple[Any, Any],
    b: tuple[Any, Any],
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """By how much the share sum(hits) / sum(trials) of `a` exceeds that of `b`; None where one has no trials.

    Args:
        a, b: (hits, trials), counts of the same samples in the same order; a mean is a share with one trial a sample.
        groups: as in `bootstrap`.

    Samples are resampled with what both did on them, so that what makes a sample hard for both cancels out. Where both
    did alike on every sample, the interval has no width: these samples do not tell how far apart the two are elsewhere.
    """
    counts = np.column_stack([*a, *b])
    if not counts[:, [1, 3]].sum(axis=0).all():
        return None
    more: dict[str, Any] = {"groups": groups, "confidence": confidence, "resamples": resamples, "seed": seed}
    return bootstrap(counts, _excess, **more)


def _excess(counts: Array) -> float:
    a_hits, a_trials, b_hits, b_trials = counts.sum(axis=0)
    return float(a_hits / a_trials - b_hits / b_trials) if a_trials and b_trials else float("nan")


def bools(name: str, values: Sequence[bool]) -> Array:
    """`values` as an array of bools; TypeError naming the first value that is none."""
    if not all(isinstance(value, (bool, np.bool_)) for value in values):
        wrong = next(value for value in values if not isinstance(value, (bool, np.bool_)))
        raise TypeError(f"{name} must hold bools, got {wrong!r}")
    return np.asarray(values, dtype=bool)
