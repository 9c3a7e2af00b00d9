"""Which frames are taken, against the rule said frame by frame."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.video import evenly
from vtokens.video.clip import Timeline
from vtokens.video.sampling import check_asked, choose


def timeline(steps: list[int]) -> tuple[Timeline, list[Fraction]]:
    """Frames these milliseconds apart."""
    times = [Fraction(sum(steps[:at]), 1000) for at in range(len(steps) + 1)]
    fps = float(len(steps) / times[-1]) if steps else 24.0
    return Timeline(np.array([float(at) for at in times]), fps), times


@pytest.mark.fuzz
@given(st.lists(st.integers(1, 400), max_size=30), st.integers(1, 60), st.integers(0, 9000), st.integers(0, 9000))
def test_a_rate_takes_what_is_on_screen(steps: list[int], fps: int, start: int, length: int) -> None:
    """For each tick of an exact clock, the last frame that was shown by then."""
    line, times = timeline(steps)
    begin, end = Fraction(start, 1000), Fraction(start + length, 1000)
    if float(begin) >= line.duration:
        with pytest.raises(ValueError, match="lies behind the end of the video"):
            choose(line, None, fps, float(begin), float(end))
        return
    wanted, tick = set(), 0
    while (now := begin + Fraction(tick, fps)) <= end and float(now) < line.duration - 1e-6:
        wanted.add(max(number for number, at in enumerate(times) if at <= now))
        tick += 1
    assert choose(line, None, fps, float(begin), float(end)) == sorted(wanted)


@pytest.mark.fuzz
@given(st.lists(st.integers(1, 400), max_size=30), st.integers(1, 40), st.integers(0, 5000), st.integers(0, 5000))
def test_a_number_is_spread_over_the_part(steps: list[int], most: int, start: int, length: int) -> None:
    """Both ends of the part are among them, gaps differ by one at most, and all come where there are fewer."""
    line, times = timeline(steps)
    begin, end = Fraction(start, 1000), Fraction(start + length, 1000)
    if float(begin) >= line.duration:
        return
    found = choose(line, most, None, float(begin), float(end))
    first = max(number for number, at in enumerate(times) if at <= begin)
    last = max(number for number, at in enumerate(times) if at <= end)
    assert found[0] == first
    assert len(found) == min(most, last - first + 1)
    assert most == 1 or found[-1] == last
    gaps = np.diff(found)
    assert not len(gaps) or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_a_high_rate_takes_each_frame_once() -> None:
    line, _ = timeline([100] * 9)
    assert choose(line, None, 1e300, None, None) == list(range(10))
    assert choose(line, None, 1e-9, None, None) == [0]
    assert choose(line, None, 5, None, None) == [0, 2, 4, 6, 8]
    assert evenly(5, 32) == [0, 1, 2, 3, 4]
    assert evenly(100, 1) == [0]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ((0, None, None, None), "frames=0 is not allowed: a whole number from 1 is"),
        ((2.5, None, None, None), "frames=2.5 is not allowed"),
        ((True, None, None, None), "frames=True is not allowed"),
        ((4, 2, None, None), "frames=4 and fps=2 cannot both be kept"),
        ((None, None, None, None), "neither frames nor fps is given"),
        ((None, 0, None, None), "fps=0 is not allowed: a number above 0 is"),
        ((None, float("nan"), None, None), "fps=nan is not allowed"),
        ((4, None, -1, None), "start=-1 is not allowed: seconds from 0 are"),
        ((4, None, None, float("inf")), "end=inf is not allowed"),
        ((4, None, "1", None), "start='1' is not allowed: a number is"),
        ((4, None, 3, 2), "end=2 lies before start=3"),
    ],
)
def test_what_cannot_be_asked(asked: tuple, says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        check_asked(*asked)
