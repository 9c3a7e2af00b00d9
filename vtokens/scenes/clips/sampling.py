"""Examples: a clip, a question about it and its one right answer, drawn by (split, seed, index, frames)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vtokens.video.clip import Clip, Timeline, of_file

from ..sampling import check_number
from .questions import KINDS, ask, check_kinds
from .render import frames_of
from .world import FPS, ClipScene, check_clip, clip_stream, draw_clip

_ASKED = 10  # the stream of questions of the first of KINDS
_ATTEMPTS = 1000  # far more than the rarest kind needs; a bound, so that a fault cannot loop for ever


@dataclass(frozen=True)
class ClipExample:
    """One question about one clip.

    video: `frames` is uint8 (T, 96, 96, 3), `seconds` says when each is shown, `metadata` is what processors take.
    question: plain text. answer: the right one. kind: one of `vtokens.scenes.clips.KINDS`. split, seed, index: what the
    example was drawn from. scene: the exact ground truth.
    """

    video: Clip
    question: str
    answer: str
    kind: str
    split: str
    seed: int
    index: int
    scene: ClipScene


def examples(
    split: str = "test", n: int = 60, seed: int = 0, kinds: Sequence[str] | None = None, frames: int = 16
) -> list[ClipExample]:
    """Draw `n` examples, the kinds taking turns, so that they are balanced; the same on every machine.

    split: "train", "calibration" or "test". kinds: names from `vtokens.scenes.clips.KINDS`, by default all. frames: of
    each clip, an even number from 8 to 4096, two a second. A longer list begins with the shorter one.
    Raises ValueError for an unknown split or kind (naming the nearest), n < 1, a negative seed, or frames out of range.
    """
    check_clip(split, frames)
    kinds = list(KINDS) if kinds is None else kinds
    check_kinds(kinds)
    check_number("n", n, 1)
    check_number("seed", seed, 0)
    return [_example(split, seed, index, kinds[index % len(kinds)], frames) for index in range(n)]


def video_of(scene: ClipScene) -> Clip:
    """The frames of a clip with their times, as `vtokens.video.read` would give them."""
    line = Timeline(np.arange(scene.frames) / FPS, FPS)
    return of_file(frames_of(scene), range(scene.frames), line, "scenes")


def _example(split: str, seed: int, index: int, kind: str, frames: int) -> ClipExample:
    for attempt in range(_ATTEMPTS):
        scene = draw_clip(split, seed, index, frames, attempt)
        found = ask(scene, kind, clip_stream(split, seed, index, attempt, _ASKED + KINDS.index(kind)))
        if found is not None:
            return ClipExample(video_of(scene), *found, kind, split, seed, index, scene)
    raise ValueError(f"no clip of split {split!r} carries questions of kind {kind!r}")
