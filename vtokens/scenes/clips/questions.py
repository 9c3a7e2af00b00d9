"""The questions asked about clips, each with the one right answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..kinds import check_kinds as any_kinds
from ..world import CLASSES, NUMBERS, SHAPES
from .world import STEP, ClipScene, Track

#: Which way something moves; which of two comes first; how often something appears; how many objects move; what stands
#: in one frame only; whether something is there at all. A kind's place says which stream its questions are drawn from.
KINDS = ("way", "first", "often", "movers", "needle", "seen")

Asked = tuple[str, str]


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise ValueError with the nearest name if one of `kinds` is none of KINDS, or there is none."""
    any_kinds(kinds, KINDS, KINDS, "kind of question about clips")


def ask(clip: ClipScene, kind: str, rng: np.random.Generator) -> Asked | None:
    """Draw a question of `kind`: (question, answer), or None if the clip cannot carry this kind."""
    check_kinds([kind])
    return _ASK[kind](clip, rng)


def _pick(rng: np.random.Generator, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


def _liked(rng: np.random.Generator, clip: ClipScene, behaviour: str) -> Track:
    """Four times in five a track that behaves so, if there is one."""
    those = [t for t in clip.lasting if t.behaviour == behaviour]
    found: Track = _pick(rng, those if those and int(rng.integers(5)) < 4 else clip.lasting)
    return found


def _way(clip: ClipScene, rng: np.random.Generator) -> Asked | None:
    track = _liked(rng, clip, "moves")
    return f"Which way does the {track.name} move?", track.way


def _first(clip: ClipScene, rng: np.random.Generator) -> Asked | None:
    tracks = list(clip.lasting)
    pairs = [(a, b) for a in tracks for b in tracks if a.spells[0][0] // STEP < b.spells[0][0] // STEP]
    if not pairs:
        return None
    pair: tuple[Track, Track] = _pick(rng, pairs)
    one, other = pair if int(rng.integers(2)) else pair[::-1]
    return f"What comes first, the {one.name} or the {other.name}?", pair[0].name


def _often(clip: ClipScene, rng: np.random.Generator) -> Asked | None:
    track = _liked(rng, clip, "blinks")
    return f"How often does the {track.name} appear?", NUMBERS[len(track.spells)]


def _movers(clip: ClipScene, rng: np.random.Generator) -> Asked | None:
    return "How many objects move?", NUMBERS[sum(t.way != "still" for t in clip.tracks)]


def _needle(clip: ClipScene, rng: np.random.Generator) -> Asked | None:
    return "What is there in one frame only?", clip.needle.name if clip.needle else "nothing"


def _seen(clip: ClipScene, rng: np.random.Generator) -> Asked | None:
    here = sorted(t.number for t in clip.tracks)
    if int(rng.integers(2)):
        return f"Is there a {CLASSES[_pick(rng, here)]} in the video?", "yes"
    absent = [k for k in range(len(CLASSES)) if k not in here]
    if int(rng.integers(2)):
        # Half of the negatives share a colour or a shape with something in the clip.
        rows, columns = {k // len(SHAPES) for k in here}, {k % len(SHAPES) for k in here}
        absent = [k for k in absent if k // len(SHAPES) in rows or k % len(SHAPES) in columns]
    return f"Is there a {CLASSES[_pick(rng, absent)]} in the video?", "no"


_ASK: dict[str, Callable[[ClipScene, np.random.Generator], Asked | None]] = {
    "way": _way,
    "first": _first,
    "often": _often,
    "movers": _movers,
    "needle": _needle,
    "seen": _seen,
}
