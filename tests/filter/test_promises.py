"""The promises on 200 splits each: with ties, with tiny sets, and with labels of one class only."""

import math

import numpy as np
import pytest

from vtokens.filter.guarantees.conformal import threshold
from vtokens.filter.guarantees.responses import realised
from vtokens.filter.guarantees.risk import Risk

SPLITS = 200


def population(levels, wrong=0.15, size=1500, seed=0):
    """Responses of 1 to 4 mentions; scores tell wrong ones apart, and take only so many values (None: no ties)."""
    draw = np.random.default_rng(seed)
    scores, labels = [], []
    for _ in range(size):
        bad = draw.random(draw.integers(1, 5)) < wrong
        values = draw.normal(size=len(bad)) + 1.5 * bad
        scores.append(values if levels is None else np.clip(np.round(values * levels / 4), -levels, levels))
        labels.append(bad)
    return scores, labels


def splits(scores, labels, risk, n):
    """The risk on the whole population, by count, of thresholds that were set on n responses drawn from it."""
    found = []
    for seed in range(SPLITS):
        draw = np.random.default_rng((seed, n))
        chosen = draw.integers(len(scores), size=n)
        made = threshold([scores[i] for i in chosen], [labels[i] for i in chosen], risk)
        found.append(realised(scores, labels, risk.kind, made.threshold))
    return np.array(found)


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("kind", ["any", "share"])
@pytest.mark.parametrize("n", [3, 12, 60])
def test_on_average_over_calibrations(levels, kind, n):
    """Without delta the mean over splits is at most alpha; 4 standard errors for the splits drawn."""
    scores, labels = population(levels)
    for alpha in (0.1, 0.3):
        found = splits(scores, labels, Risk(kind, alpha, None), n)
        assert found.mean() <= alpha + 4 * found.std() / math.sqrt(SPLITS) + 1e-9, (alpha, found.mean())
        if n == 60 and levels is None:
            assert found.mean() > alpha / 3, "a threshold that keeps nothing keeps every promise"


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("n", [3, 12, 60])
def test_with_probability_over_the_calibration(levels, n):
    """With delta at most that share of the splits exceeds alpha; 4 standard errors of a share."""
    scores, labels = population(levels)
    alpha, delta = 0.2, 0.1
    found = splits(scores, labels, Risk("any", alpha, delta), n)
    assert (found > alpha + 1e-9).mean() <= delta + 4 * math.sqrt(delta * (1 - delta) / SPLITS)


@pytest.mark.parametrize(("levels", "n"), [(None, 3), (4, 150)])
def test_the_ratio_with_probability_over_the_calibration(levels, n):
    """As above, of unsupported mentions kept over mentions kept; of a tiny set nothing is promised, nor kept."""
    scores, labels = population(levels, size=300)
    alpha, delta = 0.2, 0.1
    found = splits(scores, labels, Risk("ratio", alpha, delta), n)
    assert (found > alpha + 1e-9).mean() <= delta + 4 * math.sqrt(delta * (1 - delta) / SPLITS)
    assert (found > 0).mean() == 0 if n == 3 else (found > 0).mean() > 0.3


def test_the_ratio_of_one_class_only():
    """All right: everything is kept once there are enough responses. All wrong: nothing may be kept."""
    scores, risk = [np.array([0.1, 0.9])] * 200, Risk("ratio", 0.1, 0.1)
    assert threshold(scores, [np.array([False, False])] * 200, risk).threshold == math.inf
    few = threshold(scores[:5], [np.array([False, False])] * 5, risk)
    assert few.infeasible
    assert "so many" in few.reason
    wrong = threshold(scores, [np.array([True, True])] * 200, risk)
    assert wrong.infeasible
    assert not wrong.keeps([0.1, 0.9, -5.0]).any()


@pytest.mark.parametrize("delta", [None, 0.1])
@pytest.mark.parametrize("n", [1, 5, 60])
def test_one_class_only(delta, n):
    """All right: everything is kept once there are enough responses. All wrong: nothing may be kept."""
    scores = [np.array([0.1, 0.9])] * n
    risk = Risk("any", 0.1, delta)
    enough = n >= (math.log(0.1) / math.log(0.9) if delta else 1 / 0.1 - 1)
    right = threshold(scores, [np.array([False, False])] * n, risk)
    assert right.threshold == (math.inf if enough else None)
    assert right.infeasible != enough
    wrong = threshold(scores, [np.array([True, True])] * n, risk)
    assert wrong.infeasible
    assert not wrong.keeps([0.1, 0.9, -5.0]).any()
    assert ("too few" in wrong.reason) != enough


def test_an_answer_without_mentions_breaks_no_promise():
    none = [np.zeros(0)] * 40
    made = threshold(none, [np.zeros(0, dtype=bool)] * 40, Risk("any", 0.1, 0.1))
    assert made.threshold == math.inf
    assert made.unfiltered == 0
