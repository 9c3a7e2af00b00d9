"""The world of clips: objects that rest, move, blink, come in, and one that is there in a single frame.

Everything follows from (split, seed, index, frames), by integer draws alone, so that every machine draws the same clip.
Two frames are a step: what happens begins and ends with a step, but for the needle, whose frame may be any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vtokens.core.errors import unknown

from ..world import CELL, CLASSES, COLOURS, GRID, SHAPES, stream

SPLITS = ("train", "calibration", "test")
WAYS = ("left", "right", "up", "down")
FPS = 2.0  #: frames a second
STEP = 2  #: frames of a step
LEAST, MOST = 8, 4096  #: frames of a clip
OFTEN = 4  #: an object appears at most so often

_PART = 500  # streams of clips have a number here that those of pictures do not reach
_TRIES = 20

Behaviour = Literal["rests", "moves", "blinks", "enters", "flashes"]
_BEHAVIOURS: tuple[Behaviour, ...] = ("moves", "moves", "moves", "enters", "enters", "blinks", "blinks", "rests")


@dataclass(frozen=True)
class Track:
    """One object of a clip.

    Attributes:
        shape, colour: its names.
        size: pixels on a side.
        opacity: 0-1.
        behaviour: what it does; one that flashes is the needle.
        way: where it moves, one of WAYS, or "still".
        places: (left, top) in pixels, one a frame.
        spells: (first, end) of each time it is there, in frames, the end exclusive; ascending, not touching.
    """

    shape: str
    colour: str
    size: int
    opacity: float
    behaviour: Behaviour
    way: str
    places: tuple[tuple[int, int], ...]
    spells: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        """The name used in questions and answers, such as 'red circle'."""
        return f"{self.colour} {self.shape}"

    @property
    def number(self) -> int:
        """The class number, as that of a `Thing`."""
        return COLOURS.index(self.colour) * len(SHAPES) + SHAPES.index(self.shape)

    def shown(self, frame: int) -> bool:
        """Whether it is there in a frame."""
        return any(first <= frame < end for first, end in self.spells)


@dataclass(frozen=True)
class ClipScene:
    """The exact ground truth of one clip of `frames` frames at `FPS`; no two tracks have one name or ever overlap."""

    split: str
    seed: int
    index: int
    attempt: int
    frames: int
    tracks: tuple[Track, ...]

    @property
    def needle(self) -> Track | None:
        """The object that is there in one frame only."""
        return next((t for t in self.tracks if t.behaviour == "flashes"), None)

    @property
    def lasting(self) -> tuple[Track, ...]:
        """All tracks but the needle."""
        return tuple(t for t in self.tracks if t.behaviour != "flashes")


def clip_stream(split: str, seed: int, index: int, attempt: int, part: int) -> np.random.Generator:
    """The random stream of a part of a clip; no picture has it, and no other split."""
    return stream(split, seed, index, attempt, _PART, part)


def check_clip(split: str, frames: int) -> None:
    """Raise ValueError for a split that is none of SPLITS, or a number of frames that no clip can have."""
    if split not in SPLITS:
        raise unknown("split of clips", split, SPLITS)
    if isinstance(frames, bool) or not isinstance(frames, int):
        raise TypeError(f"frames must be an int, got {frames!r}")
    if frames % STEP or not LEAST <= frames <= MOST:
        raise ValueError(f"frames must be an even number from {LEAST} to {MOST}, got {frames}")


def draw_clip(split: str, seed: int, index: int, frames: int = 16, attempt: int = 0) -> ClipScene:
    """Draw the contents of clip `index` of a split; `attempt` > 0 redraws it, for questions it could not carry.

    Raises ValueError for an unknown split, or frames that are odd, fewer than 8 or more than 4096.
    """
    check_clip(split, frames)
    rng = clip_stream(split, seed, index, attempt, 0)
    names = iter(rng.permutation(len(CLASSES)))
    free = set(range(GRID * GRID))
    tracks = []
    for _ in range(int(rng.integers(2, 5))):
        behaviour = _BEHAVIOURS[int(rng.integers(len(_BEHAVIOURS)))]
        if free:
            tracks.append(_track(rng, int(next(names)), behaviour, free, frames))
    if int(rng.integers(4)) < 3 and free:
        tracks.append(_track(rng, int(next(names)), "flashes", free, frames))
    return ClipScene(split, seed, index, attempt, frames, tuple(tracks))


def _track(rng: np.random.Generator, number: int, behaviour: Behaviour, free: set[int], frames: int) -> Track:
    size, opacity = int(rng.integers(12, 21)), 0.7 + 0.3 * rng.random()
    steps, room = frames // STEP, (CELL - size) // 2
    shift = [room + int(v) for v in rng.integers(-min(3, room), min(3, room) + 1, size=2)]
    lane = _lane(rng, free) if behaviour == "moves" else None
    way, (start, end) = lane or ("still", (_one(rng, sorted(free)),) * 2)
    behaviour = behaviour if lane or behaviour != "moves" else "rests"
    ends = [(c % GRID * CELL + shift[0], c // GRID * CELL + shift[1]) for c in (start, end)]
    free -= set(_between(start, end))
    first, last = int(rng.integers(steps // 3 + 1)), steps - 1 - int(rng.integers(steps // 3 + 1))
    # It stands before its first frame on the way and behind the last one.
    places = tuple(_at(ends, frame - first * STEP, (last + 1 - first) * STEP - 1) for frame in range(frames))
    return Track(
        SHAPES[number % len(SHAPES)],
        COLOURS[number // len(SHAPES)],
        size,
        opacity,
        behaviour,
        way,
        places,
        _spells(rng, behaviour, frames),
    )


def _one(rng: np.random.Generator, items: list[int]) -> int:
    return items[int(rng.integers(len(items)))]


def _between(start: int, end: int) -> range:
    step = 1 if abs(end - start) < GRID else GRID
    return range(min(start, end), max(start, end) + 1, step)


def _lane(rng: np.random.Generator, free: set[int]) -> tuple[str, tuple[int, int]] | None:
    """A way, and the first and the last cell of a straight path over free cells; None if none was found."""
    for _ in range(_TRIES):
        number, far = int(rng.integers(4)), int(rng.integers(1, GRID))
        line, begin = int(rng.integers(GRID)), int(rng.integers(GRID - far))
        pair = (begin + far, begin) if WAYS[number] in ("left", "up") else (begin, begin + far)
        start, end = (line * GRID + p if number < 2 else p * GRID + line for p in pair)
        if free.issuperset(_between(start, end)):
            return WAYS[number], (start, end)
    return None


def _at(ends: list[tuple[int, int]], passed: int, total: int) -> tuple[int, int]:
    passed = min(max(passed, 0), total)
    (left, top), (right, bottom) = ends
    return left + (right - left) * passed // total, top + (bottom - top) * passed // total


def _spells(rng: np.random.Generator, behaviour: Behaviour, frames: int) -> tuple[tuple[int, int], ...]:
    steps = frames // STEP
    if behaviour == "flashes":
        frame = int(rng.integers(frames))
        return ((frame, frame + 1),)
    if behaviour == "enters":
        return ((int(rng.integers(1, steps - 1)) * STEP, frames),)
    if behaviour != "blinks":
        return ((0, frames),)
    often = int(rng.integers(1, min(OFTEN, steps // 2) + 1))
    # Lengths of gap, spell, gap, ..., gap: what is there once is there for two steps at least, unlike the needle.
    lengths = np.array([0, *([1 + (often == 1), 1] * often)])
    lengths[-1] = 0
    np.add.at(lengths, rng.integers(0, len(lengths), size=steps - int(lengths.sum())), 1)
    edges = [int(v) * STEP for v in np.cumsum(lengths)]
    return tuple(zip(edges[0::2], edges[1::2], strict=False))
