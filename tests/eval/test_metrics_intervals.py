"""Intervals, against worked examples, independent formulas and scipy."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from vtokens.eval.metrics import Interval, bootstrap, ratio, wilson

COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_bounds_solve_its_equation(counts, confidence):
    """The bounds are the shares p that a score test at this level only just does not reject."""
    found, z = wilson(*counts, confidence), scipy.stats.norm.ppf((1 + confidence) / 2)
    assert found.n == counts[1]
    assert 0 <= found.low <= found.value == counts[0] / counts[1] <= found.high <= 1
    for p in (found.low, found.high):
        assert (found.value - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / found.n, abs=1e-9)


def test_wilson_of_a_worked_example():
    """Agresti and Coull (1998): 10 of 10 gives 0.722 to 1."""
    found = wilson(10, 10)
    assert (found.value, round(found.low, 3), found.high) == (1.0, 0.722, 1.0)
    assert str(wilson(5, 10)) == "0.500 [0.237, 0.763]"


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match=f"got successes={successes}, n={n}"):
        wilson(successes, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, float("nan")])
def test_confidence_is_a_share(confidence):
    for run in (lambda: wilson(1, 2, confidence), lambda: bootstrap([1.0, 2.0], np.mean, confidence=confidence)):
        with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
            run()


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(3).gamma(2.0, size=80)
    for statistic in (np.mean, np.median):
        theirs = scipy.stats.bootstrap((values,), statistic, method="percentile", n_resamples=20000, rng=1)
        ours = bootstrap(values, statistic, resamples=20000)
        width = ours.high - ours.low
        assert ours.value == statistic(values)
        assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
        assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.integers(1, 4), st.randoms(use_true_random=False))
def test_rows_of_one_group_count_as_one(values, copies, random):
    """The mean over copies has the interval of the originals: copies of a sample are no new evidence."""
    rows = [(value, label) for label, value in enumerate(values) for _ in range(copies)]
    plain = bootstrap(values, np.mean, resamples=50)
    copied = bootstrap([v for v, _ in rows], np.mean, groups=[label for _, label in rows], resamples=50)
    assert (copied.value, copied.low, copied.high) == pytest.approx((plain.value, plain.low, plain.high), abs=1e-9)
    assert copied.n == len(rows)
    random.shuffle(rows)
    met = list(dict.fromkeys(label for _, label in rows))
    plain = bootstrap([values[label] for label in met], np.mean, resamples=50)
    mixed = bootstrap([v for v, _ in rows], np.mean, groups=[label for _, label in rows], resamples=50)
    assert (mixed.value, mixed.low, mixed.high) == pytest.approx((plain.value, plain.low, plain.high), abs=1e-9)


def test_bootstrap_of_uneven_groups():
    """Groups of one and of three rows: a resample holds two groups, AA, AB or BB, whole."""
    seen = []
    groups = ["a", "b", "b", "b"]
    bootstrap([1, 0, 0, 0], lambda rows: seen.append((len(rows), int(rows.sum()))) or 0.0, groups=groups, resamples=99)
    assert seen[0] == (4, 1)
    assert set(seen[1:]) == {(2, 2), (4, 1), (6, 0)}


def test_bootstrap_covers_what_it_says():
    rng, hits = np.random.default_rng(0), 0
    for draw in range(300):
        found = bootstrap(rng.normal(size=60), np.mean, resamples=200, seed=draw)
        hits += found.low <= 0 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


def test_bootstrap_is_repeatable_and_seeded():
    values = np.arange(9.0)
    assert bootstrap(values, np.mean) == bootstrap(values, np.mean)
    assert bootstrap(values, np.std) != bootstrap(values, np.std, seed=1)


def test_resamples_without_a_value_are_left_out():
    """Zero over zero in a resample does not spoil the interval."""
    found = ratio([0, 2, 0, 1], [0, 3, 0, 3], seed=2)
    assert found is not None
    assert (found.value, found.n) == (0.5, 6)
    assert 1 / 3 <= found.low < found.high <= 2 / 3


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "at least one row"),
        (3.0, {}, "at least one row"),
        ([1.0, math.nan], {}, "1 NaN among 2"),
        ([1.0, 2.0], {"groups": ["a"]}, "one label a row, got 1 for 2"),
        ([1.0, 2.0], {"resamples": 0}, "resamples must be at least 1, got 0"),
    ],
)
def test_bootstrap_refuses(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(values, np.mean, **options)
    with pytest.raises(ValueError, match="NaN on all rows"):
        bootstrap([0.0], lambda rows: math.nan)


def test_ratio_chooses_its_interval():
    assert ratio([1, 0, 1, 0], [1, 1, 1, 0]) == wilson(2, 3)
    assert ratio([0, 0], [0, 0]) is None
    assert ratio([0, 0, 0], [4, 0, 2]) == Interval(0.0, 0.0, wilson(0, 2).high, 6)
    assert ratio([4, 0, 2], [4, 0, 2]) == Interval(1.0, wilson(2, 2).low, 1.0, 6)
    assert ratio([0, 0, 0], [1, 1, 1], groups=["a", "b", "b"]) == Interval(0.0, 0.0, wilson(0, 2).high, 3)
    with pytest.raises(ValueError, match="0 <= hits <= trials"):
        ratio([2], [1])


@given(st.lists(st.integers(0, 4).flatmap(lambda t: st.tuples(st.integers(0, t), st.just(t))), min_size=1))
def test_ratio_is_a_share(counts):
    hits, trials = zip(*counts, strict=True)
    found = ratio(hits, trials, resamples=20)
    if found is None:
        assert sum(trials) == 0
    else:
        assert found.value == pytest.approx(sum(hits) / sum(trials))
        assert 0 <= found.low <= found.high <= 1
