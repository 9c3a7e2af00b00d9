"""Which frames of a long video to show, by how well each answers a question: AKS, BOLT and DATE on plain scores.

All of them give exactly as many frames as are asked for, rising and none twice, and all frames if there are no more.
Of equal scores the earlier frame counts as better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np

from vtokens.core.errors import shorten
from vtokens.video import evenly

# Comparisons with NaN are false, so that it is in no range.
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "count": (lambda value: _whole(value) and value >= 1, "a whole number, 1 or more"),
    "threshold": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "depth": (lambda value: _whole(value) and value >= 0, "a whole number, 0 or more"),
    "power": (lambda value: 0 < value < np.inf, "a finite number above 0"),
    "gap": (lambda value: 0 < value < np.inf, "a finite number of seconds above 0"),
    "confirmed": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "share": (lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "grid": (lambda value: _whole(value) and value >= 1, "a whole number, 1 or more"),
}


def check_settings(**settings: Any) -> None:
    """Raise `ValueError` for a setting of a search that is out of range; its message names the range."""
    for name, value in settings.items():
        inside, allowed = _RANGES[name]
        if isinstance(value, bool | str | None) or not inside(value):
            raise ValueError(f"{name}={shorten(value)} is out of range: {allowed} is needed")


def aks(scores: Sequence[float], count: int, threshold: float = 0.8, depth: int = 5) -> list[int]:
    """Adaptive Keyframe Sampling (arXiv:2502.21271): parts of a video are halved until they have a clear peak.

    A part whose best `count` scores lie more than `threshold` above its mean, or that was halved `depth` times, gives
    its best count / 2**times frames. Ours: halving stops where a part would give none, and what rounding leaves goes to
    the best others.

    Args:
        scores: of each candidate, any finite numbers; they are brought to 0 to 1.
        count: frames to choose.
        threshold: from 0 to 1.
        depth: 0 or more.

    Raises:
        ValueError: a setting out of range.
    """
    check_settings(count=count, threshold=threshold, depth=depth)
    score = _unit(scores)
    if count >= len(score):
        return list(range(len(score)))
    depth = min(depth, count.bit_length() - 1)
    chosen: list[int] = []
    parts = [(0, len(score), 0)]
    while parts:
        first, last, halved = parts.pop()
        part = score[first:last]
        order = _best(part)
        if halved >= depth or len(part) < 2 or part[order[:count]].mean() - part.mean() > threshold:
            chosen += (first + order[: count >> halved]).tolist()
        else:
            half = first + len(part) // 2
            parts += [(first, half, halved + 1), (half, last, halved + 1)]
    return _filled(chosen, score, count)


def bolt(scores: Sequence[float], count: int, power: float = 3.0) -> list[int]:
    """BOLT (arXiv:2503.21483): frames at even steps of the sum of their scores.

    Scores are brought to 0 to 1 and raised to `power`; frames stand where their sum passes `count` numbers from
    1 / count to 1 - 1 / count of the whole. Ours: a frame that is met twice leaves its place to the best other one;
    scores that are all equal give frames evenly, and a single frame is the best one.

    Args:
        scores: of each candidate, any finite numbers.
        count: frames to choose.
        power: above 0, finite.

    Raises:
        ValueError: a setting out of range.
    """
    check_settings(count=count, power=power)
    score = _unit(scores)
    if count >= len(score):
        return list(range(len(score)))
    if not score.any():
        return evenly(len(score), count)
    mass = np.cumsum(score**power)
    points = np.linspace(1 / count, 1 - 1 / count, count) if count > 1 else np.empty(0)
    met = np.searchsorted(mass / mass[-1], points).clip(max=len(score) - 1)
    return _filled(np.unique(met), score, count)


def date(scores: Sequence[float], seconds: Sequence[float], count: int, gap: float = 20.0) -> list[int]:
    """DATE's sampling (arXiv:2509.09263): the best frames that lie some time apart.

    Of frames better than the mean, at most four times as many as are wanted, the best is taken that lies `gap` seconds
    or more from those taken before, and so on; then again with half of the gap. Ours: where fewer frames are better
    than the mean, the best others fill up.

    Args:
        scores: of each candidate, any finite numbers.
        seconds: when each is shown, rising.
        count: frames to choose.
        gap: seconds, above 0, finite.

    Raises:
        ValueError: a setting out of range.
    """
    check_settings(count=count, gap=gap)
    score = _unit(scores)
    if count >= len(score):
        return list(range(len(score)))
    above = [at for at in _best(score) if score[at] > score.mean()][: 4 * count]
    return _filled(above if len(above) <= count else apart(above, seconds, count, gap), score, count)


def apart(order: Sequence[int], places: Sequence[float], count: int, gap: float) -> list[int]:
    """The first `count` of an order that lie `gap` or more apart; with half of it where too few do, and so on.

    Args:
        order: numbers of candidates, the best first.
        places: where each candidate lies.
        count: at most as many as there are.
        gap: in the unit of `places`.
    """
    taken: list[int] = []
    least = min((abs(b - a) for a, b in pairwise(places)), default=0.0)
    while len(taken) < min(count, len(order)):
        gap = 0.0 if gap < least else gap
        for at in order:
            near = any(abs(places[at] - places[other]) < gap for other in taken)
            if len(taken) < count and at not in taken and not near:
                taken.append(at)
        gap /= 2
    return taken


def _whole(value: object) -> bool:
    return isinstance(value, Integral)


def _unit(scores: Sequence[float]) -> np.ndarray:
    """float64 (T,): from 0 to 1; zeros where all are equal."""
    score = np.asarray(scores, dtype=np.float64)
    low, high = score.min(), score.max()
    return np.zeros_like(score) if high == low else (score - low) / (high - low)


def _best(score: np.ndarray) -> np.ndarray:
    return np.argsort(-score, kind="stable")


def _filled(chosen: Iterable[int], score: np.ndarray, count: int) -> list[int]:
    """Rising, and as many as asked for, by the best others."""
    found = {int(at) for at in chosen}
    found |= set([int(at) for at in _best(score) if at not in found][: count - len(found)])
    return sorted(found)
