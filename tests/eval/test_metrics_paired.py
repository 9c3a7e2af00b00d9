"""Paired tests and differences, against hand counts and exact computations."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.eval.metrics import bootstrap, difference, holm, mcnemar

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_mcnemar_is_a_sign_test(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    found = mcnemar(a, b)
    assert found.only_a == sum(x and not y for x, y in pairs)
    assert found.only_b == sum(y and not x for x, y in pairs)
    n, less = found.only_a + found.only_b, min(found.only_a, found.only_b)
    tail = sum(Fraction(math.comb(n, k), 2**n) for k in range(less + 1))
    assert found.p_value == pytest.approx(float(min(1, 2 * tail)))
    assert mcnemar(b, a).p_value == pytest.approx(found.p_value)


def test_mcnemar_by_hand():
    """One right alone against six: 2 (1 + 7) / 2^7."""
    a = [True] * 10 + [True] + [False] * 6
    b = [True] * 10 + [False] + [True] * 6
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b, found.p_value) == (1, 6, pytest.approx(16 / 128))
    with pytest.raises(ValueError, match="same samples, got 2 and 1"):
        mcnemar([True, False], [True])
    with pytest.raises(TypeError, match="b must hold bools, got 'no'"):
        mcnemar([True], ["no"])  # type: ignore[list-item]


@given(SHARES)
def test_holm_is_the_closure_of_bonferroni(p_values):
    """A hypothesis falls when Bonferroni rejects every set of hypotheses it belongs to (Marcus et al., 1976)."""
    numbers = range(len(p_values))
    sets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(numbers, size)]
    for i, found in enumerate(holm(p_values)):
        assert found == pytest.approx(max(min(1, len(s) * min(p_values[j] for j in s)) for s in sets if i in s))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"p-values must be in \[0, 1\]"):
            holm([0.5, wrong])


def test_difference_cancels_what_is_hard_for_both():
    """Always one hit more in ten: the difference is known exactly, although each share varies from sample to sample."""
    base = np.random.default_rng(0).integers(0, 9, size=50)
    found = difference((base + 1, [10] * 50), (base, [10] * 50))
    assert (found.value, found.low, found.high, found.n) == (*(pytest.approx(0.1),) * 3, 50)


def test_difference_of_means_is_the_mean_of_differences():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=40), rng.normal(size=40)
    ones = [1] * 40
    ours, theirs = difference((a, ones), (b, ones), seed=5), bootstrap(a - b, np.mean, seed=5)
    assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high))


def test_difference_changes_its_sign_with_the_order():
    rng = np.random.default_rng(2)
    a, b = ((rng.integers(0, 3, size=30), [2] * 30) for _ in "ab")
    forth, back = difference(a, b), difference(b, a)
    assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert difference(a, ([0] * 30, [0] * 30)) is None
