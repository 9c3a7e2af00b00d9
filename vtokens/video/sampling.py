"""Which frames of a video are taken: one rule, whatever decodes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from vtokens.core.errors import shorten
from vtokens.video.clip import Timeline

_SLACK = 1e-6
"""Seconds: a frame shown at 0.3 s is on screen at 3 x 0.1 s."""


def check_asked(
    frames: int | None, fps: float | None, start: float | None, end: float | None, all_frames: bool = False
) -> None:
    """Check what `read` was asked for; with `all_frames`, neither number nor rate means all of them.

    Raises:
        TypeError: a number of another type.
        ValueError: one out of range; both a number of frames and a rate, or neither.
    """
    if frames is not None and fps is not None:
        raise ValueError(f"frames={frames} and fps={fps} cannot both be kept: give one of them")
    if frames is None and fps is None and not all_frames:
        raise ValueError("neither frames nor fps is given: say how many frames to take, or how many a second")
    if frames is not None and (isinstance(frames, bool) or not isinstance(frames, int | np.integer)):
        raise TypeError(f"frames={shorten(frames)} is not allowed: a whole number from 1 is")
    if frames is not None and frames < 1:
        raise ValueError(f"frames={shorten(int(frames))} is not allowed: a whole number from 1 is")
    for name, value in (("fps", fps), ("start", start), ("end", end)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float | np.number)):
            raise TypeError(f"{name}={shorten(value)} is not allowed: a number is")
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"fps={fps} is not allowed: a number above 0 is")
    for name, value in (("start", start), ("end", end)):
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} is not allowed: seconds from 0 are")
    if start is not None and end is not None and end < start:
        raise ValueError(f"end={end} lies before start={start}")


def check_indices(indices: Sequence[int], is_file: bool, **asked: float | None) -> None:
    """Check numbers of frames that `read` was asked for.

    Args:
        indices: they.
        is_file: whether the frames are those of a file.
        asked: what else was asked for, None if not.

    Raises:
        TypeError: a number that is none.
        ValueError: none, some that do not rise, something else beside them, or frames that are given already.
    """
    if beside := [f"{name}={value}" for name, value in asked.items() if value is not None]:
        raise ValueError(f"indices and {', '.join(beside)} cannot both be kept: give one of them")
    if not is_file:
        raise ValueError("indices are numbers of frames of a file: of frames that are there already, choose before")
    if any(isinstance(at, bool) or not isinstance(at, int | np.integer) for at in indices):
        raise TypeError(f"indices={shorten(list(indices))} is not allowed: whole numbers are")
    if not indices or indices[0] < 0 or any(b <= a for a, b in pairwise(indices)):
        raise ValueError(f"indices={shorten(list(indices))} is not allowed: one or more, rising, from 0 on")


def inside(indices: Sequence[int], line: Timeline) -> list[int]:
    """The numbers of some frames; ValueError if the video has fewer."""
    if indices[-1] >= len(line.times):
        raise ValueError(f"there is no frame {indices[-1]}: the video has {len(line.times):,}, from 0 on")
    return [int(at) for at in indices]


def choose(line: Timeline, frames: int | None, fps: float | None, start: float | None, end: float | None) -> list[int]:
    """The numbers of the frames to take, ascending.

    Args:
        line: of the video.
        frames: this many, evenly by their numbers, from the first of the part to its last; all if there are fewer.
        fps: those on screen at the beginning of the part and each 1/fps seconds later; none twice.
        start, end: seconds. The part begins with the frame on screen at `start` and ends with the one at `end`.

    Raises:
        ValueError: the part begins behind the end of the video.
    """
    if (start or 0.0) >= line.duration:
        raise ValueError(f"start={start} lies behind the end of the video, which takes {line.duration:.2f} s")
    first = 0 if start is None else _on_screen(line, start)
    last = len(line.times) - 1 if end is None else _on_screen(line, end)
    if frames is not None:
        return [first + at for at in evenly(last - first + 1, frames)]
    if fps is None:
        return list(range(first, last + 1))
    begin = float(line.times[first]) if start is None else start
    stop = line.duration if end is None else min(end + 2 * _SLACK, line.duration)
    edges = np.append(line.times[first : last + 1], stop)
    # How many ticks lie before each edge: a frame is taken where one comes while it is on screen.
    before = np.ceil((edges - _SLACK - begin).clip(0) * min(fps, 1 / _SLACK))
    return [first + int(at) for at in np.flatnonzero(np.diff(before) > 0)]


def evenly(total: int, most: int) -> list[int]:
    """The numbers of at most `most` of `total` frames, evenly from the first to the last.

    Raises:
        ValueError: no frame to take.
    """
    if total < 1 or most < 1:
        raise ValueError(f"cannot take {most} of {total} frames: both must be at least 1")
    return [int(at) for at in np.linspace(0, total - 1, min(most, total), dtype=int)]


def _on_screen(line: Timeline, second: float) -> int:
    return max(int(np.searchsorted(line.times, second + _SLACK, side="right")) - 1, 0)
