"""What a score is worth if the worst-scored are left out: risk by coverage, averaged or at one point."""

from __future__ import annotations

import numpy as np

from .intervals import Array


def aurc(scores: Array, labels: Array) -> float:
    """Mean, over all coverages 1/n to 1, of the share of positives among the lowest-scored (Geifman et al., 2019).

    Samples of one score are taken to come in random order.
    """
    wrong = _by_score(scores, labels)
    return float(np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1)))


def excess_aurc(scores: Array, labels: Array) -> float:
    """AURC above that of a score which ranks every positive last; the latter is near e + (1 - e) ln(1 - e) for a share
    e of positives."""
    return aurc(scores, labels) - aurc(labels, labels)


def augrc(scores: Array, labels: Array) -> float:
    """Mean, over all coverages, of the share of all samples that are positive and kept (Traub et al., NeurIPS 2024)."""
    wrong = _by_score(scores, labels)
    return float(np.mean(np.cumsum(wrong)) / len(wrong))


def kept_real(scores: Array, labels: Array, risk: float) -> float:
    """The largest share of negatives that a threshold keeps while positives are at most `risk` of what it keeps.

    0 if no threshold does; NaN without negatives. The threshold is chosen on these very samples.
    """
    order = np.argsort(scores, kind="stable")
    wrong = np.cumsum(labels[order])
    ordered = scores[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(scores) - 1)  # equal ones may be infinite
    right = ends + 1 - wrong[ends]
    if not right[-1]:
        return float("nan")
    allowed = wrong[ends] <= risk * (ends + 1) + 1e-9
    return float((right * allowed).max() / right[-1])


def _by_score(scores: Array, labels: Array) -> Array:
    """Labels from the lowest score up, each replaced by the mean of those that share its score."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(place, weights=labels) / count, count)
