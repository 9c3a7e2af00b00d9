"""Learn then test: the p-values against a plain loop and against chance, and the order of testing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.filter.guarantees.conformal import threshold
from vtokens.filter.guarantees.ltt import betting, fixed_sequence, ltt
from vtokens.filter.guarantees.risk import Risk


def one_by_one(excess, high):
    """The p-value of one column: after each observation the stake is set anew from those before it."""
    capital, best, total, squares = 1.0, 1.0, 0.0, (high / 2) ** 2
    for z in excess:
        capital *= 1 - min(max(-total / squares, 0.0), 0.9 / high) * z
        best, total, squares = max(best, capital), total + z, squares + z * z
    return 1 / best


@given(st.lists(st.lists(st.floats(-3, 2), min_size=3, max_size=3), min_size=1, max_size=30))
def test_p_values_by_a_loop(rows):
    excess = np.array(rows)
    assert betting(excess, 2.0) == pytest.approx([one_by_one(column, 2.0) for column in excess.T])


def test_p_values_of_true_hypotheses_are_rarely_small():
    """At the worst case, where the mean is exactly what is tested; 4 standard errors of 4,000 trials above delta."""
    rng = np.random.default_rng(0)
    for rate in (0.05, 0.3):
        draws = rng.random((150, 4000)) < rate
        p = betting(draws - rate, 1 - rate)
        for delta in (0.05, 0.1, 0.3):
            assert (p <= delta).mean() <= delta + 4 * np.sqrt(delta * (1 - delta) / 4000)
    assert (betting((rng.random((150, 4000)) < 0.1) - 0.3, 0.7) <= 0.05).mean() > 0.9


def test_testing_ends_at_the_first_failure():
    assert fixed_sequence([0.01, 0.02, 0.5, 0.01], 0.1) == [0, 1]
    assert fixed_sequence([0.2, 0.01], 0.1) == []
    assert fixed_sequence([], 0.1) == []
    assert fixed_sequence([0.1], 0.1) == [0]


def test_a_policy_that_is_not_monotone():
    """A setting in the middle does harm: what lies behind it in the order is not certified, whatever it does."""
    rng = np.random.default_rng(1)
    losses = (rng.random((600, 4)) < [0.02, 0.03, 0.3, 0.02]).astype(float)
    assert ltt(losses, 0.1, 0.1) == [0, 1]
    assert ltt(losses, 0.1, 0.1, order=[3, 1, 0, 2]) == [3, 1, 0]
    assert ltt(losses, 0.1, 0.1, order=[2, 0]) == []


def test_ratio_of_expectations():
    """Few but long responses that are wrong: the mean of ratios is small, the ratio of means is not."""
    rng = np.random.default_rng(2)
    long = rng.random(2000) < 0.1
    said = np.where(long, 10.0, 1.0)[:, None]
    wrong = np.where(long, 4.0, 0.0)[:, None]
    assert (wrong / said).mean() < 0.1 < wrong.sum() / said.sum()
    assert ltt(wrong / said, 0.1, 0.1) == [0]
    assert ltt(wrong, 0.1, 0.1, per=said, bound=10) == []
    assert ltt(wrong, 0.3, 0.1, per=said, bound=10) == [0]


@pytest.mark.parametrize(
    ("losses", "more", "message"),
    [
        (np.zeros(3), {}, r"got an array of shape \(3,\)"),
        (np.zeros((0, 3)), {}, "none of them 0"),
        ([[2.0]], {}, "between 0 and `per`, `per` at most 1"),
        ([[float("nan")]], {}, "between 0 and `per`"),
        ([[1.0]], {"per": [[0.5]]}, "between 0 and `per`"),
        ([[0.0]], {"per": [[2.0]]}, "at most 1"),
        ([[0.0]], {"order": [1]}, r"order must name columns 0 to 0, each once at most, got \[1\]"),
        ([[0.0]], {"order": [0, 0]}, "each once at most"),
    ],
)
def test_what_cannot_be_tested(losses, more, message):
    with pytest.raises(ValueError, match=message):
        ltt(losses, 0.1, 0.1, **more)


@pytest.mark.parametrize(("alpha", "delta", "name"), [(0, 0.1, "alpha"), (0.1, 1, "delta")])
def test_levels_are_shares(alpha, delta, name):
    with pytest.raises(ValueError, match=f"{name} must lie between 0 and 1"):
        ltt([[0.0]], alpha, delta)


def test_thresholds_are_chosen_on_other_responses():
    """With training responses of their own, all calibration responses are tested; without, a quarter is set aside."""
    rng = np.random.default_rng(3)
    labels = [rng.random(4) < 0.2 for _ in range(900)]
    scores = [rng.normal(3.0 * h) for h in labels]
    risk = Risk("ratio", 0.1, 0.1)
    given_ = threshold(scores[300:], labels[300:], risk, training=(scores[:300], labels[:300]))
    drawn = threshold(scores, labels, risk)
    assert (given_.n, drawn.n) == (600, 675)
    for found in (given_, drawn):
        assert found.cap == 4
        assert found.observed <= 0.1
        assert found.kept_supported > 0.5
    few = [threshold(scores[:1], labels[:1], Risk(kind, 0.1, 0.1)) for kind in ("any", "share", "ratio")]
    assert all(one.infeasible and one.n == 1 and one.reason.startswith("too few") for one in few)
    assert [one.cap for one in few] == [None, None, 4]
    assert threshold([[], []], [[], []], risk).infeasible
