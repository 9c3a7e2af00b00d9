"""Frames chosen by plain scores, against worked cases and the methods' own words."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.recipes.choose import aks, apart, bolt, date
from vtokens.recipes.tstar import tstar
from vtokens.video import evenly

SCORES = st.lists(st.floats(-5, 5), min_size=1, max_size=40)
PLANTED = [0.0, 0, 0, 1, 0.9, *[0] * 11]


@given(SCORES, st.integers(1, 45), st.floats(0.1, 60))
def test_exactly_as_many_as_asked_for(scores: list[float], count: int, gap: float) -> None:
    """Rising, none twice, all if there are no more; and numbers for scores play no part."""
    seconds = [1.5 * at for at in range(len(scores))]
    for chosen in (aks(scores, count), bolt(scores, count), date(scores, seconds, count, gap)):
        assert chosen == sorted(set(chosen))
        assert len(chosen) == min(count, len(scores))
        assert all(0 <= at < len(scores) for at in chosen)


@given(st.integers(2, 40), st.data())
def test_a_single_frame_that_stands_out_is_chosen(total: int, data: st.DataObject) -> None:
    planted, count = data.draw(st.integers(0, total - 1)), data.draw(st.integers(1, total))
    scores = [float(at == planted) for at in range(total)]
    assert planted in aks(scores, count)
    assert planted in bolt(scores, count)
    assert planted in date(scores, [float(at) for at in range(total)], count)
    chosen, _ = tstar(lambda at: [[scores[n] for n in at]], total, count, share=1.0)
    assert planted in chosen


def test_aks_halves_until_there_is_a_peak() -> None:
    assert aks(PLANTED, 4, depth=1) == [3, 4, 8, 9]
    assert aks(PLANTED, 4, depth=2) == [3, 4, 8, 12]
    # Deeper than log2(4) a part would give nothing.
    assert aks(PLANTED, 4, depth=5) == [3, 4, 8, 12]
    # The best frame of all lies far enough above the mean that nothing is halved.
    assert aks([0.0, 1, *[0] * 14], 1) == [1]
    assert aks([1.0, 1, 1, 1, *[0] * 60], 4) == [0, 1, 2, 3]


def expected_bolt(scores: list[float], count: int) -> set[int]:
    """Frames at the numbers, one by one, before any fills up."""
    low, high = min(scores), max(scores)
    mass = [((score - low) / (high - low)) ** 3 for score in scores]
    found = set()
    for number in range(count):
        point = 1 / count + (1 - 2 / count) * number / (count - 1)
        total = 0.0
        for at, one in enumerate(mass):
            total += one / sum(mass)
            if total >= point - 1e-12:
                found.add(at)
                break
    return found


def test_bolt_stands_where_scores_lie() -> None:
    """One peak of eight frames is met four times: the other places go to the best others."""
    peak = [0.0, 0.1, 0.2, 0.6, 1.0, 0.6, 0.2, 0.1]
    assert expected_bolt(peak, 4) <= set(bolt(peak, 4))
    assert len(expected_bolt(peak, 4)) < 4
    assert bolt(peak, 4) == [2, 3, 4, 5]
    assert bolt([0.5] * 10, 3) == evenly(10, 3)


@given(st.lists(st.integers(0, 50), min_size=4, max_size=30), st.integers(2, 6))
def test_bolt_as_counted_by_hand(scores: list[int], count: int) -> None:
    if len(set(scores)) > 1 and count < len(scores):
        low, high = min(scores), max(scores)
        sums = np.cumsum([((score - low) / (high - low)) ** 3 for score in scores])
        points = np.linspace(1 / count, 1 - 1 / count, count)
        if min(abs(point - one / sums[-1]) for point in points for one in sums) > 1e-9:
            assert expected_bolt([float(score) for score in scores], count) <= set(bolt(scores, count))


def test_date_keeps_frames_apart() -> None:
    """The best of what lies close together, then what lies elsewhere, then with half of the gap."""
    seconds = [0.0, 5, 10, 40, 45, 100, 105, 110]
    scores = [0.9, 1.0, 0.95, 0.8, 0.7, 0.75, 0.1, 0.0]
    assert date(scores, seconds, 3) == [1, 3, 5]
    assert date(scores, seconds, 5) == [0, 1, 2, 3, 5]  # at 20 and 10 seconds none other is apart enough, at 5 two are
    assert apart([0, 1, 2, 3], [0, 10, 20, 30], 2, 15) == [0, 2]
    assert apart([0, 1], [3.0, 3.0], 2, 100) == [0, 1]


def walker(total: int, planted: dict[int, list[int]], seen: list[int]) -> Any:
    def look(at: list[int]) -> list[list[float]]:
        seen.extend(at)
        return [[0.9 if n in planted[q] else 0.05 for n in at] for q in planted]

    return look


@given(st.integers(30, 300), st.integers(0, 10**6), st.integers(0, 5))
def test_tstar_ends_when_all_is_found_or_paid_for(total: int, where: int, seed: int) -> None:
    seen: list[int] = []
    planted = where % total
    around = list(range(max(0, planted - 4), min(total, planted + 5)))
    chosen, scores = tstar(walker(total, {0: around}, seen), total, 8, seed=seed)
    assert len(seen) == len(set(seen)) <= max(8, int(total * 0.5))
    if set(seen) & set(around):
        assert set(chosen) & set(around)
        assert scores.argmax() in around
        assert set(seen[:-16]) & set(around) == set()  # found in the last look
    assert tstar(walker(total, {0: around}, []), total, 8, seed=seed)[0] == chosen


def test_tstar_weighs_cues_less_and_need_not_find_them() -> None:
    seen: list[int] = []
    chosen, scores = tstar(walker(64, {0: [0], 1: [63]}, seen), 64, 4, weights=(1.0, 0.5))
    assert len(seen) == 16  # the target was in the first look
    assert math.isclose(scores[0], 0.9)
    assert math.isclose(scores[63], 0.45)
    assert math.isclose(scores[62], 0.45 / 2)
    assert {0, 63} <= set(chosen)


@pytest.mark.parametrize("count", [5, 9])
def test_all_frames_without_a_look(count: int) -> None:
    seen: list[int] = []
    assert tstar(walker(5, {0: [0]}, seen), 5, count)[0] == list(range(5))
    assert not seen


@pytest.mark.parametrize(
    ("method", "setting", "allowed"),
    [
        (aks, {"threshold": math.nan}, "a number from 0 to 1"),
        (aks, {"threshold": -0.1}, "a number from 0 to 1"),
        (aks, {"depth": -2}, "a whole number, 0 or more"),
        (aks, {"depth": 1.5}, "a whole number, 0 or more"),
        (bolt, {"power": -1.0}, "a finite number above 0"),
        (bolt, {"power": 0}, "a finite number above 0"),
        (bolt, {"power": math.nan}, "a finite number above 0"),
        (date, {"gap": math.inf}, "a finite number of seconds above 0"),
        (date, {"gap": -5}, "a finite number of seconds above 0"),
        (tstar, {"grid": 0}, "a whole number, 1 or more"),
        (tstar, {"grid": -3}, "a whole number, 1 or more"),
        (tstar, {"share": -1}, "a number above 0, at most 1"),
        (tstar, {"share": 1.5}, "a number above 0, at most 1"),
        (tstar, {"confirmed": math.nan}, "a number from 0 to 1"),
        (aks, {"count": 0}, "a whole number, 1 or more"),
    ],
)
def test_a_setting_out_of_range_is_refused(method: Any, setting: dict[str, Any], allowed: str) -> None:
    """By the method, before it looks at anything; numbers at the ends of a range are allowed."""
    scores, given = [0.1, 0.7, 0.3, 0.2], {"count": 2, **setting}
    if method is tstar:
        given |= {"look": lambda at: [[scores[n] for n in at]], "total": 4}
    else:
        given |= {"scores": scores, **({"seconds": range(4)} if method is date else {})}
    [(name, value)] = setting.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} is out of range: {allowed} is needed")):
        method(**given)


def test_settings_at_the_ends_of_their_ranges() -> None:
    scores = [0.1, 0.7, 0.3, 0.2]
    for threshold in (0, 1):
        assert 1 in aks(scores, 2, threshold, depth=0)
    chosen, _ = tstar(lambda at: [[scores[n] for n in at]], 4, 2, confirmed=1, share=1, grid=1)
    assert 1 in chosen
