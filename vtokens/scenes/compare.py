"""Questions about two pictures: which has more of something, whether they agree, what both of them show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .world import COLOURS, SHAPES, Scene, Thing

#: Kinds that show two pictures of one split, the first and the second.
COMPARE = ("more", "same_count", "same_colour", "same_shape", "in_both")

Asked = tuple[str, str]


def ask_two(scenes: Sequence[Scene], kind: str, rng: np.random.Generator, wanted: float | None = None) -> Asked | None:
    """Draw a question of `kind` about two scenes: (question, answer), or None if they cannot carry it.

    Args:
        scenes: the first and the second.
        kind: one of COMPARE.
        wanted: in 0-1, which of the possible answers the scenes shall have; None is any. Drawn before they are, it
            makes answers equally frequent; those of "in_both" are as they come.
    """
    first, second = (scene.visible for scene in scenes)
    asked = _ASK[kind](first, second, rng)
    if asked is None or wanted is None or kind == "in_both":
        return asked
    answers = ("first", "second", "neither") if kind == "more" else ("yes", "no")
    return asked if asked[1] == answers[int(wanted * len(answers))] else None


def _pick(rng: np.random.Generator, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


def _counted(first: Sequence[Thing], second: Sequence[Thing], rng: np.random.Generator) -> tuple[str, int, int]:
    """What is counted, a word for it, and how many there are: all objects, those of a colour, those of a shape."""
    how = int(rng.integers(3))
    if how == 0:
        return "objects", len(first), len(second)
    there = [(t.colour, t.shape)[how - 1] for t in (*first, *second)]
    word = _pick(rng, there if rng.random() < 0.85 else (COLOURS, SHAPES)[how - 1])
    one, other = (sum(word in (t.colour, t.shape) for t in things) for things in (first, second))
    return (f"{word} objects" if how == 1 else plural(word)), one, other


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return "crosses" if shape == "cross" else f"{shape}s"


def _more(first: Sequence[Thing], second: Sequence[Thing], rng: np.random.Generator) -> Asked:
    what, one, other = _counted(first, second, rng)
    answer = "neither" if one == other else "first" if one > other else "second"
    return f"Which picture has more {what}?", answer


def _same_count(first: Sequence[Thing], second: Sequence[Thing], rng: np.random.Generator) -> Asked:
    what, one, other = _counted(first, second, rng)
    return f"Do both pictures show equally many {what}?", "yes" if one == other else "no"


def _same(of: str, by: str, question: str) -> Callable[..., Asked | None]:
    def asked(first: Sequence[Thing], second: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
        one, other = ({getattr(t, by): getattr(t, of) for t in _single(things, by)} for things in (first, second))
        shared = [key for key in one if key in other]
        if not shared:
            return None
        key = _pick(rng, shared)
        return question.format(key), "yes" if one[key] == other[key] else "no"

    return asked


def _single(things: Sequence[Thing], by: str) -> list[Thing]:
    every = [getattr(t, by) for t in things]
    return [t for t in things if every.count(getattr(t, by)) == 1]


def _in_both(first: Sequence[Thing], second: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    names = {t.name for t in second}
    shared = [t.name for t in first if t.name in names]
    return ("Which object do both pictures show?", shared[0]) if len(shared) == 1 else None


_ASK: dict[str, Callable[..., Asked | None]] = {
    "more": _more,
    "same_count": _same_count,
    "same_colour": _same("colour", "shape", "Is the {} of the same colour in both pictures?"),
    "same_shape": _same("shape", "colour", "Is the {} object of the same shape in both pictures?"),
    "in_both": _in_both,
}
