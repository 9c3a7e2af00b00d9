"""Harder questions about scenes: how two things stand to each other, and places of what is not there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .world import CLASSES, COLUMNS, ROWS, Scene, Thing

#: Kinds that only scenes-smol is trained on.
HARDER = ("left_of", "above", "nowhere")


def left_of(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> tuple[str, str] | None:
    """Whether one thing is left of another: two that stand in different columns, in either order."""
    return _compared([(t.column, t.name) for t in seen], "left of", rng)


def above(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> tuple[str, str] | None:
    """Whether one thing is above another: two that stand in different rows, in either order."""
    return _compared([(t.row, t.name) for t in seen], "above", rng)


def nowhere(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> tuple[str, str] | None:
    """Where something is that is there in half of the cases; else the answer is 'nowhere'.

    What is annotated without being visible is not asked for: training says that it is there.
    """
    if rng.random() < 0.5:
        thing = seen[int(rng.integers(len(seen)))]
        return f"Where is the {thing.name}?", f"{ROWS[thing.row]} {COLUMNS[thing.column]}"
    here = {t.number for t in scene.objects}
    absent = [k for k in range(len(CLASSES)) if k not in here]
    return f"Where is the {CLASSES[absent[int(rng.integers(len(absent)))]]}?", "nowhere"


def _compared(things: list[tuple[int, str]], how: str, rng: np.random.Generator) -> tuple[str, str] | None:
    pairs = [(a, b) for a in things for b in things if a[0] != b[0]]
    if not pairs:
        return None
    (first, one), (second, other) = pairs[int(rng.integers(len(pairs)))]
    return f"Is the {one} {how} the {other}?", "yes" if first < second else "no"
