"""Frame search: of a long video the frames that a question needs, read one by one, and no others kept."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import numpy as np

from vtokens.core.errors import unknown
from vtokens.recipes.choose import aks, bolt, check_settings, date
from vtokens.recipes.scorers import Scorer
from vtokens.recipes.tstar import tstar
from vtokens.video import Clip, read, timeline
from vtokens.video.sampling import check_asked, choose

METHODS: dict[str, Callable[..., Any]] = {"aks": aks, "bolt": bolt, "date": date, "tstar": tstar}
_GIVEN = {"scores", "seconds", "count", "look", "total", "weights", "seed"}
_CHUNK = 32
"""Frames in memory at once while they are scored."""


class SearchOptions(TypedDict, total=False):
    """The settings of the methods: of "aks" threshold and depth, "bolt" power, "date" gap, "tstar" the others."""

    threshold: float
    depth: int
    power: float
    gap: float
    confirmed: float
    share: float
    grid: int


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Attributes:
        clip: the frames that were chosen.
        scores: float64 (T,), of each candidate. T* does not look at all of them: one that it passed over has what a
            good frame near it lends it, or 0. Empty if all candidates were wanted.
        seconds: when each candidate is shown.
    """

    clip: Clip
    scores: np.ndarray
    seconds: tuple[float, ...]


def search_frames(
    source: str | os.PathLike[str],
    query: str,
    scorer: Scorer,
    count: int = 8,
    method: str = "aks",
    *,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    cues: Sequence[str] = (),
    seed: int = 0,
    backend: str = "auto",
    **settings: Unpack[SearchOptions],
) -> Searched:
    """The frames of a file that fit a query best, as one of four methods chooses them.

    Candidates are read and scored a few at a time; then only the chosen frames are read.

    Args:
        source: the path of a video.
        query: what the frames should show: the question, or better a caption of what answers it.
        scorer: says how well a frame fits: `ClipScorer`, `AnswerScorer`, or a function of frames and query.
        count: frames to choose; all candidates if there are no more.
        method: "aks", "bolt", "date" or "tstar" (`vtokens.recipes.choose`, `vtokens.recipes.tstar`).
        fps: candidates a second; None: one, and no fewer than four times as many candidates as are chosen.
        start, end: seconds, to search in a part.
        cues: further queries that lead to what is sought, at half of its weight; "tstar" alone.
        seed: of what "tstar" draws.
        backend: as in `vtokens.video.read`.
        settings: of the method, as threshold=0.7.

    Raises:
        OSError, MissingExtra: as `vtokens.video.read`.
        TypeError, ValueError: wrong arguments; a scorer that gives other than a finite number for each frame.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    allowed = {*inspect.signature(METHODS[method]).parameters} - _GIVEN
    if wrong := sorted({*settings} - allowed):
        raise unknown(f"setting of {method!r}", wrong[0], allowed)
    check_settings(**settings)
    own: dict[str, Any] = {**settings}
    if cues and method != "tstar":
        raise ValueError(f"cues={tuple(cues)!r} lead the search of 'tstar', and {method!r} scores one query")
    check_asked(count, None, start, end)
    check_asked(None, 1.0 if fps is None else fps, start, end)
    line = timeline(source, backend, end)
    length = min(line.duration, line.duration if end is None else end) - (start or 0.0)
    rate = max(1.0, 4 * count / max(length, 1 / line.fps)) if fps is None else fps
    candidates = choose(line, None, rate, start, end)
    seconds = tuple(float(line.times[at]) for at in candidates)

    def look(at: Sequence[int], query: str) -> list[float]:
        found: list[float] = []
        for first in range(0, len(at), _CHUNK):
            numbers = [candidates[number] for number in at[first : first + _CHUNK]]
            frames = read(source, backend=backend, indices=numbers).images()
            found += _checked(scorer(frames, query), len(frames))
        return found

    scores = np.zeros(0)
    if count >= len(candidates):
        chosen = list(range(len(candidates)))
    elif method == "tstar":
        queries = [query, *cues]
        weights = [1.0] + [0.5] * len(cues)
        chosen, scores = tstar(
            lambda at: [_confidences(look(at, one)) for one in queries],
            len(candidates), count, weights, seed=seed, **own,
        )  # fmt: skip
    else:
        scores = np.array(look(range(len(candidates)), query))
        more = {"seconds": seconds} if method == "date" else {}
        chosen = METHODS[method](scores.tolist(), count=count, **more, **own)
    return Searched(read(source, backend=backend, indices=[candidates[at] for at in chosen]), scores, seconds)


def timed_parts(clip: Clip, written: str = "{seconds:.1f} s") -> list[dict[str, str]]:
    """DATE's prompt: the parts of a chat that show frames as pictures, each behind the time at which it is shown.

    They go with `clip.images()`. Processors that write times into the prompt themselves (Qwen3-VL, GLM) need it not.

    Args:
        clip: of a file, so that times are known.
        written: how a time is written.

    Raises:
        ValueError: frames without times.
    """
    if not clip.seconds:
        raise ValueError("nothing says when these frames are shown: timestamps need a clip that was read of a file")
    parts = []
    for second in clip.seconds:
        parts += [{"type": "text", "text": written.format(seconds=second)}, {"type": "image"}]
    return parts


def _checked(scores: Sequence[float], count: int) -> list[float]:
    found = np.asarray(scores, dtype=np.float64)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise ValueError(
            f"the scorer gave {found.shape} numbers for {count} frames, {int((~np.isfinite(found)).sum())} of them not "
            "finite: one finite number for each frame is needed"
        )
    plain: list[float] = found.tolist()
    return plain


def _confidences(scores: list[float]) -> list[float]:
    if any(not 0 <= score <= 1 for score in scores):
        raise ValueError(
            f"the scorer gave {min(scores):.3g} to {max(scores):.3g}, and 'tstar' needs confidences from 0 to 1, as "
            "AnswerScorer gives: use that, or one of the other methods"
        )
    return scores
