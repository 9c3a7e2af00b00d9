"""Budgets: one pure function of (token count, keep), and what it refuses."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.core.budget import budget, check_keep

COUNTS = st.integers(1, 100_000)
SHARES = st.floats(0, 1, exclude_min=True)


@given(COUNTS, SHARES)
def test_a_share_stays_within_one_and_all(count: int, share: float) -> None:
    """At least one token, at most all, never further than half a token from the exact share."""
    kept = budget(count, share)
    assert 1 <= kept <= count
    assert kept == 1 or abs(Fraction(kept) - count * Fraction(share)) <= Fraction(1, 2) + Fraction(1, 10**9)


@given(COUNTS, SHARES, SHARES)
def test_more_share_never_keeps_less(count: int, first: float, second: float) -> None:
    """Monotone in the share, and in the count."""
    low, high = sorted((first, second))
    assert budget(count, low) <= budget(count, high)
    assert budget(count, low) <= budget(count + 1, low)


@given(COUNTS, st.data())
def test_a_count_is_a_count(count: int, data: st.DataObject) -> None:
    """An int is kept as it is, up to the count, and refused beyond it with the range that is allowed."""
    keep = data.draw(st.integers(1, count))
    assert budget(count, keep) == keep
    with pytest.raises(ValueError, match=rf"keep={count + 1} asks for more than the {count} .* 1 to {count} is"):
        budget(count, count + 1)


def test_published_budgets() -> None:
    """576 tokens: 58 at a tenth (as FastV rounds), FasterVLM's 432, 288, 144 and 29; ToDRE's 288 and 720 of 2880."""
    assert [budget(576, keep) for keep in (0.1, 0.75, 0.5, 0.25, 0.05)] == [58, 432, 288, 144, 29]
    assert [budget(2880, keep) for keep in (0.1, 0.25)] == [288, 720]
    assert [budget(5, keep) for keep in (0.1, 0.3, 0.5, 1.0)] == [1, 2, 3, 5]  # halves go up
    assert budget(0, 0.5) == budget(0, 7) == 0


@pytest.mark.parametrize("keep", [0.25, 1.0, 1, 576, np.float32(0.5), np.int64(3)])
def test_numbers_of_all_kinds_become_plain(keep: object) -> None:
    """numpy's numbers become Python's, so that a strategy prints and saves alike; 1.0 and 1 stay different things."""
    plain = check_keep(keep)
    assert plain == keep
    assert type(plain) is (int if isinstance(keep, int | np.integer) else float)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (0, r"keep=0 keeps nothing: a float in \(0, 1\]"),
        (-3, r"keep=-3 keeps nothing"),
        (0.0, r"keep=0.0 is out of range"),
        (-0.5, r"keep=-0.5 is out of range"),
        (1.5, r"keep=1.5 is out of range: .*an int >= 1 is a count per image$"),
        (64.0, r"keep=64.0 is out of range: .*did you mean keep=64\?"),
        (math.nan, r"keep=nan is out of range"),
        (math.inf, r"keep=inf is out of range: a float"),
    ],
)
def test_numbers_out_of_range_are_refused(keep: float, message: str) -> None:
    """Each message names the value and what is allowed."""
    with pytest.raises(ValueError, match=message):
        check_keep(keep)


@pytest.mark.parametrize("keep", [True, "0.5", None, [0.5], 1j])
def test_other_types_are_refused(keep: object) -> None:
    """A bool would pass for 1 and a string for a number: both are type errors."""
    with pytest.raises(TypeError, match="is not a number: a float in"):
        check_keep(keep)
