"""The calibration error's interval holds the true one as often as it says, where one of percentiles does not."""

import numpy as np
import pytest

from vtokens.eval.detectors.figures import by_part, figures
from vtokens.eval.metrics import bootstrap, wilson
from vtokens.eval.metrics.calibration import calibration_error
from vtokens.eval.metrics.detection import ece

DRAWS = 60
WRONG = 13  # of 60: 95% intervals, which are a little narrow where the error is large


def drawn(rng, n, off):
    """Probabilities, and labels that are positive as often as they say, less `off`."""
    p = rng.uniform(0.25, 0.75, size=n)
    return p, rng.random(n) < p - off


@pytest.mark.parametrize(("n", "off"), [(40, 0.0), (40, 0.2), (150, 0.0), (150, 0.1)])
def test_the_true_error_is_inside(n, off):
    """All gaps are `off`, so that this is the true error, however bins are cut."""
    rng = np.random.default_rng(5)
    missed = plainly = 0
    values = []
    for seed in range(DRAWS):
        p, y = drawn(rng, n, off)
        found = calibration_error(p, y, resamples=200, seed=seed)
        assert 0 <= found.low <= found.value <= found.high
        missed += not found.low - 1e-9 <= off <= found.high + 1e-9
        values.append(found.value)
        if off == 0:
            rows = np.column_stack([p, y])
            percentiles = bootstrap(rows, lambda r: ece(r[:, 0], r[:, 1]), resamples=50, seed=seed)
            plainly += percentiles.low <= off
    assert missed < WRONG
    assert plainly == 0
    # Half of what is right is found to be so; the plain figure of 40 is about .2.
    assert abs(np.median(values) - off) < 0.05


def test_an_error_next_to_nothing_is_not_sure_to_be_one():
    """Half of 38 are positive, or 20 are, where half should be: the true share may be what so many allow (Wilson)."""
    for positive in (19, 20):
        share = wilson(positive, 38)
        found = calibration_error(np.full(38, 0.5), np.arange(38) < positive)
        assert found.low == 0
        assert found.high == pytest.approx(max(share.high - 0.5, 0.5 - share.low), abs=0.03)
    both = calibration_error(np.repeat([0.2, 0.5], 50), np.arange(100) % 50 < np.repeat([10, 25], 50))
    assert 0.03 < both.high < 0.15


@pytest.mark.parametrize(("n", "off"), [(38, 0.05), (200, 0.05)])
def test_the_true_error_of_one_probability_is_inside(n, off):
    """All say a half, so that there is one bin, whose gap is next to nothing in many draws."""
    rng = np.random.default_rng(0)
    found = [
        calibration_error(np.full(n, 0.5), rng.random(n) < 0.5 + off, resamples=200, seed=seed) for seed in range(200)
    ]
    assert sum(not one.low - 1e-9 <= off <= one.high + 1e-9 for one in found) <= 20


def test_claims_of_one_picture_count_once():
    """Claims that are there five times say no more than once, if they are of one picture each."""
    p, y = drawn(np.random.default_rng(1), 300, 0.1)
    once = calibration_error(p, y, groups=range(300), resamples=2000)
    again = calibration_error(
        np.repeat(p, 5), np.repeat(y, 5), groups=np.repeat(range(300), 5).tolist(), resamples=2000
    )
    apart = calibration_error(np.repeat(p, 5), np.repeat(y, 5), resamples=2000)
    assert (again.value, again.low, again.high) == pytest.approx((once.value, once.low, once.high), abs=0.02)
    assert apart.high - apart.low < 0.7 * (once.high - once.low)


def test_one_class_and_what_is_none():
    p = np.full(80, 0.003)
    found = calibration_error(p, np.zeros(80, dtype=bool))
    assert (found.value, found.low) == pytest.approx((0.003, 0.0))
    assert 0.03 < found.high < 0.06  # none of 80: up to 4.6%, by Wilson
    wrong = calibration_error(p, np.ones(80, dtype=bool))
    assert wrong.low > 0.9
    assert calibration_error(p[:40], np.zeros(40)).high > found.high
    assert calibration_error(p, np.zeros(80), groups=[0] * 80).high > 0.7
    assert calibration_error([0.4], [True]).value == pytest.approx(0.6)
    for columns in (([], []), ([0.1, 0.2], [True])):
        with pytest.raises(ValueError, match="a label a probability is needed"):
            calibration_error(*columns)


def test_figures_have_it():
    p, y = drawn(np.random.default_rng(3), 120, 0.1)
    found = figures("x", p, y, list(range(120)), resamples=100, seed=4).ece
    assert found == calibration_error(p, y, groups=range(120), resamples=100, seed=4)


def test_a_seed_holds_for_what_needs_no_filter_too() -> None:
    """The row of positions is the one that positions give by themselves under the same seed."""
    rng = np.random.default_rng(0)
    p, labels, where = rng.random(60), rng.random(60) < 0.4, rng.integers(0, 200, 60)
    groups, length = [f"{i // 3}" for i in range(60)], np.full(60, 300)
    rows = by_part(p, labels, groups, ["object"] * 60, where, length, resamples=50, seed=3)
    given = {"threshold": None, "probabilities": False, "resamples": 50}
    assert rows[1] == figures("position in the answer", where, labels, groups, **given, seed=3)
    assert rows[1] != figures("position in the answer", where, labels, groups, **given, seed=0)
