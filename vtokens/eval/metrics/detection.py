"""How well scores find what is wrong: ranking, calibration and selection. 'Positive' is what is to be found."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtokens.core.extras import needs

from .intervals import Array, Interval, bootstrap
from .selective import augrc, aurc, excess_aurc, kept_real


@dataclass(frozen=True)
class Detection:
    """How well scores find the `positives` among `n`; figures are None where they are not defined, for `reason`.

    auroc: chance that a positive scores above a negative. ap: average precision, positives as positive; chance level
    is their share. stratified: AUROC of pairs within one stratum, each pair counted once. brier and ece: of scores that
    are probabilities. aurc, excess_aurc, augrc and kept_real: see `selective`; kept_real by the risk allowed.
    """

    n: int
    positives: int
    auroc: Interval | None
    ap: Interval | None
    stratified: Interval | None
    brier: Interval | None
    ece: Interval | None
    aurc: Interval | None
    excess_aurc: Interval | None
    augrc: Interval | None
    kept_real: dict[float, Interval | None]
    reason: str = ""


def detection(
    scores: Any,
    labels: Any,
    *,
    strata: Sequence[Hashable] | None = None,
    probabilities: bool = False,
    risks: Sequence[float] = (0.01, 0.05),
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Detection:
    """All figures of one score, with percentile intervals.

    Args:
        scores: (n,), high where a positive is suspected.
        labels: (n,) bools, True for positives.
        strata: one label a score, such as the position in a response; None leaves the stratified AUROC out.
        probabilities: whether the scores are probabilities of being positive.
        risks: shares of positives among what is kept, for kept_real.
        groups, confidence, resamples, seed: as in `bootstrap`; resamples with one class only are left out.

    Raises:
        ValueError: no scores, labels or strata of another number, NaN, or probabilities outside [0, 1].
    """
    found, wrong = np.asarray(scores, dtype=float), np.asarray(labels)
    if found.ndim != 1 or found.shape != wrong.shape or not len(found):
        raise ValueError(f"need one label a score and at least one, got shapes {found.shape} and {wrong.shape}")
    if wrong.dtype != bool:
        raise TypeError(f"labels must be bools, got {wrong.dtype}")
    if np.isnan(found).any():
        raise ValueError(f"{int(np.isnan(found).sum())} of {len(found)} scores are NaN")
    if probabilities and not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"probabilities must lie in [0, 1], got {found.min()} to {found.max()}")
    marks: dict[Hashable, int] = {}
    strata = [0] * len(found) if (unstratified := strata is None) else strata
    if len(strata) != len(found):
        raise ValueError(f"strata must hold one label a score, got {len(strata)} for {len(found)}")
    rows = np.column_stack([found, wrong, [marks.setdefault(mark, len(marks)) for mark in strata]])

    def interval(figure: Callable[..., float], *columns: int) -> Interval | None:
        if np.isnan(figure(*rows.T[list(columns)])):
            return None
        more: dict[str, Any] = {"groups": groups, "confidence": confidence, "resamples": resamples, "seed": seed}
        return bootstrap(rows, lambda drawn: figure(*drawn.T[list(columns)]), **more)

    positives = int(wrong.sum())
    one_class = positives in (0, len(found))
    return Detection(
        len(found),
        positives,
        interval(auroc, 0, 1),
        interval(average_precision, 0, 1),
        None if unstratified else interval(stratified_auroc, 0, 1, 2),
        interval(brier, 0, 1) if probabilities else None,
        interval(ece, 0, 1) if probabilities else None,
        interval(aurc, 0, 1),
        interval(excess_aurc, 0, 1),
        interval(augrc, 0, 1),
        {risk: interval(lambda s, y, r=risk: kept_real(s, y, r), 0, 1) for risk in risks},
        f"all {len(found)} labels are {bool(wrong[0])}" if one_class else "",
    )


def auroc(scores: Array, labels: Array) -> float:
    """Chance that a positive scores above a negative, ties counted half; NaN for labels of one class."""
    with needs("filter", "a detection metric"):
        from scipy.stats import rankdata

    # By ranks: scikit-learn's checks of its arguments cost ten times as much, which a bootstrap pays a thousand times.
    right, wrong = float((labels == 0).sum()), float((labels != 0).sum())
    if not right or not wrong:
        return float("nan")
    return float((rankdata(scores)[labels != 0].sum() - wrong * (wrong + 1) / 2) / (right * wrong))


def average_precision(scores: Array, labels: Array) -> float:
    """Mean precision over recall, by scikit-learn's definition; NaN for labels of one class."""
    with needs("filter", "a detection metric"):
        from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores)) if _both(labels) else float("nan")


def stratified_auroc(scores: Array, labels: Array, strata: Array) -> float:
    """AUROC over the pairs of a positive and a negative of one stratum; NaN if no stratum has both.

    It is the mean of the strata's AUROC, weighted by their pairs, so that what differs between strata cannot help.
    """
    total = pairs = 0.0
    for stratum in np.unique(strata):
        inside = strata == stratum
        weight = float(labels[inside].sum() * (1 - labels[inside]).sum())
        if weight:
            total, pairs = total + weight * auroc(scores[inside], labels[inside]), pairs + weight
    return total / pairs if pairs else float("nan")


def brier(probabilities: Array, labels: Array) -> float:
    """Mean squared distance of probability and label."""
    return float(np.mean((probabilities - labels) ** 2))


def ece(probabilities: Array, labels: Array, bins: int = 15) -> float:
    """Expected calibration error: mean distance of mean probability and share of positives, over bins of equal mass.

    Equal probabilities share a bin, so bins can be fewer. It is above 0 by chance alone, the more the fewer samples.
    """
    gaps = np.bincount(bin_of(probabilities, bins), weights=probabilities - labels)
    return float(np.abs(gaps).sum() / len(labels))


def bin_of(probabilities: Array, bins: int) -> Array:
    """int64 (n,): the bin of each, of at most so many of equal mass; equal probabilities share one."""
    edges = np.unique(np.quantile(probabilities, np.linspace(0, 1, bins + 1)[1:-1]))
    found = np.searchsorted(edges, probabilities, side="left")
    return np.unique(found, return_inverse=True)[1]


def _both(labels: Array) -> bool:
    return bool(0 < labels.sum() < len(labels))
