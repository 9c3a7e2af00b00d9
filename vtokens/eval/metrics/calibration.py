"""The calibration error of probabilities with an interval, without what a small sample adds to it by chance."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from .detection import bin_of
from .intervals import Array, Interval, clusters, wilson

BINS, LEAST = 15, 20
"""Bins of equal mass, fewer where there would not be `LEAST` probabilities in each."""
_STEPS = np.linspace(0, 4, 401)


def calibration_error(
    probabilities: Any,
    labels: Any,
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> Interval:
    """The expected calibration error, and which true ones an error like the one that was found would come of.

    The plain figure (`detection.ece`) is a sum of distances, so that chance adds to it: probabilities that are right
    have an error above 0, and resampled data one above that of the data itself, so that an interval of percentiles lies
    too high and may leave out its own figure. Here gaps of bins are multiplied by t, chance is added to them (residuals
    around their bin's mean, drawn by group), and those t stay under which the error found is neither among the
    smallest nor among the largest (1 - `confidence`) / 2; gaps that are all 0 stand for equal ones. Of 95% intervals
    nine in ten or more hold the true error of 40 to 1,300 probabilities; of percentiles none hold an error of 0. The
    value is where the error found is the median: 0 if chance alone gives more.

    Args:
        probabilities, labels: (n,), and (n,) bools.
        groups: one label a probability, such as its picture; drawn together.
        resamples: how many times chance is drawn.

    Returns:
        low <= value <= high. Where all labels are alike nothing tells how far they scatter: the interval is then that
        of the share that this many groups allow (Wilson's), held against the mean probability.

    Raises ValueError for no probabilities, or columns of different lengths.
    """
    p, y = np.asarray(probabilities, dtype=float), np.asarray(labels, dtype=float)
    if not len(p) or p.shape != y.shape or p.ndim != 1:
        raise ValueError(f"a label a probability is needed, and at least one, got shapes {p.shape} and {y.shape}")
    members, sizes = clusters(groups, len(p))
    if y.min() == y.max():
        return _alike(p, float(y[0]), len(sizes), confidence)
    place = bin_of(p, max(1, min(BINS, len(p) // LEAST)))
    counts = np.bincount(place)
    gaps = np.bincount(place, weights=p - y) / counts
    # A bin's own mean takes a part of the scatter along.
    around = (p - y - gaps[place]) * np.sqrt(counts / np.maximum(counts - 1, 1))[place]
    owner = np.empty(len(p), dtype=int)
    owner[members] = np.repeat(np.arange(len(sizes)), sizes)
    table = np.zeros((len(sizes), len(counts)))
    np.add.at(table, (owner, place), around / len(p))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=resamples)
    chance = drawn @ table  # (resamples, bins)
    weighted = counts / len(p) * gaps
    found = float(np.abs(weighted).sum())
    tail = (1 - confidence) / 2
    # Gaps come in steps of a label: what is below half of one by chance is as likely 0, whatever the true error.
    least = found + 0.5 / len(sizes)
    furthest = least + float(np.quantile(np.abs(chance).sum(1), 1 - tail))
    true = found * _STEPS
    true = np.append(true, np.linspace(true[-1], max(true[-1], furthest), 201)[1:])
    shape = weighted / found if found else counts / len(p)
    errors = np.abs(true[:, None, None] * shape + chance).sum(-1)  # (true errors, resamples)
    small, middle, large = np.quantile(errors, [tail, 0.5, 1 - tail], axis=1)
    value, low = (true[int(np.argmax(one >= found))] for one in (middle, large))
    # An error smaller than chance alone gives fits no true one: it counts as what chance gives in the middle.
    high = true[np.flatnonzero(small <= (least if least >= small[0] else middle[0]))[-1]]
    return Interval(float(value), float(min(low, value)), float(max(high, value)), len(p))


def _alike(p: Array, label: float, groups: int, confidence: float) -> Interval:
    """Where all labels are alike: the mean probability, held against the shares that so many groups allow."""
    share, mean = wilson(int(label) * groups, groups, confidence), float(p.mean())
    found, ends = abs(mean - label), (abs(mean - share.low), abs(mean - share.high))
    low = 0.0 if share.low <= mean <= share.high else min(ends)
    return Interval(found, min(found, low), max(found, *ends), len(p))
