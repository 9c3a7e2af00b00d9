"""The questions asked about scenes, each with the one right answer.

`ask` draws a question of a kind about a scene; the answer follows from the scene's visible contents alone (in training
it can follow from the annotation instead, which also names invisible partners: see `vtokens.scenes.world.Pair`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import signs
from .compare import plural
from .kinds import check_kinds
from .relations import above, left_of, nowhere
from .stories import STORIES, story
from .world import CLASSES, COLOURS, COLUMNS, GRID, NUMBERS, PAIRS, POPULAR, ROWS, SHAPES, Scene, Thing

Asked = tuple[str, str]


def ask(scene: Scene, kind: str, rng: np.random.Generator, annotated: bool = False) -> Asked | None:
    """Draw a question of `kind` about `scene`: (question, answer), or None if the scene cannot carry this kind.

    `annotated` takes the annotation for the truth in existence questions and captions, invisible partners included.
    Raises ValueError for an unknown kind, and for one about two pictures (see `vtokens.scenes.compare.ask_two`).
    """
    if kind not in _ASK:
        check_kinds([kind])
        raise ValueError(f"kind {kind!r} is about two pictures: vtokens.scenes.compare.ask_two")
    seen = scene.objects if annotated and kind in ("exist", "caption", *STORIES) else scene.visible
    return _ASK[kind](scene, seen, rng)


def exist_question(number: int) -> str:
    """The existence question about class `number`, worded as POPE words it."""
    return f"Is there a {CLASSES[number]} in the image?"


def caption_of(things: Sequence[Thing]) -> str:
    """The caption that names these things in raster order, such as 'red circle, blue square'."""
    return ", ".join(t.name for t in sorted(things, key=lambda t: t.cell))


def missing_partners(scene: Scene, annotated: bool = True) -> list[int]:
    """The classes that usually come with something visible in the scene but are not annotated in it.

    annotated: False for those that are not visible in it, whatever the annotation says.
    """
    here = {t.number for t in scene.visible}
    there = {t.number for t in scene.objects} if annotated else here
    return [p.partner for p in PAIRS if p.trigger in here and p.partner not in there]


def _pick(rng: np.random.Generator, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


def _exist(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    here = {t.number for t in seen}
    if rng.random() < 0.5:
        return exist_question(_pick(rng, sorted(here))), "yes"
    partners = [k for k in missing_partners(scene) if k not in here]
    if scene.split == "train" and partners and rng.random() < 0.08:
        return exist_question(_pick(rng, partners)), "no"
    absent = [k for k in range(len(CLASSES)) if k not in here and k not in partners]
    if rng.random() < 0.5:
        # Half of the negatives share a colour or a shape with something in the picture.
        rows, columns = {k // len(SHAPES) for k in here}, {k % len(SHAPES) for k in here}
        near = [k for k in absent if k // len(SHAPES) in rows or k % len(SHAPES) in columns]
        absent = near or absent
    return exist_question(_pick(rng, absent)), "no"


def _pope(choose: Callable[[Scene, set[int]], list[int]]) -> Callable[..., Asked | None]:
    def asked(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
        here = {t.number for t in seen}
        # Both answers need a scene that could carry the negative, so that 'yes' and 'no' come from the same scenes.
        negatives = choose(scene, here)
        if not negatives or not here:
            return None
        if rng.random() < 0.5:
            return exist_question(_pick(rng, sorted(here))), "yes"
        return exist_question(_pick(rng, negatives)), "no"

    return asked


def _random(scene: Scene, here: set[int]) -> list[int]:
    gone = missing_partners(scene)
    return [k for k in range(len(CLASSES)) if k not in here and k not in gone]


def _popular(scene: Scene, here: set[int]) -> list[int]:
    frequent = (*POPULAR, *(p.trigger for p in PAIRS))
    return [k for k in _random(scene, here) if k in frequent]


def _adversarial(scene: Scene, here: set[int]) -> list[int]:
    return missing_partners(scene)


def _where(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    thing: Thing = _pick(rng, seen)
    return f"Where is the {thing.name}?", _place(thing.row, thing.column)


def _at(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    taken = {t.cell: t.name for t in seen}
    empty = [c for c in range(GRID * GRID) if c not in taken and c not in scene.taken]
    cell: int = _pick(rng, empty if empty and rng.random() < 0.25 else sorted(taken))
    return f"What is at {_place(cell // GRID, cell % GRID)}?", taken.get(cell, "nothing")


def _colour_at(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    thing: Thing = _pick(rng, seen)
    return f"What colour is at {_place(thing.row, thing.column)}?", thing.colour


def _colour_of(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    thing = _single(seen, rng, lambda one: one.shape)
    return None if thing is None else (f"What colour is the {thing.shape}?", thing.colour)


def _shape_of(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    thing = _single(seen, rng, lambda one: one.colour)
    return None if thing is None else (f"What shape is {thing.colour}?", thing.shape)


def _single(seen: Sequence[Thing], rng: np.random.Generator, of: Callable[[Thing], str]) -> Thing | None:
    """A thing whose shape, or colour, no other has."""
    found = [of(one) for one in seen]
    single = [one for one in seen if found.count(of(one)) == 1]
    return _pick(rng, single) if single else None


def _count(seen: Sequence[Thing], what: str) -> str:
    return NUMBERS[sum(what in (t.shape, t.colour) for t in seen)]


def _count_all(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    return "How many objects are there?", NUMBERS[len(seen)]


def _one(rng: np.random.Generator, present: list[str], every: Sequence[str]) -> str:
    # Three in four about something present; drawing with repeats favours what is there more than once.
    return _pick(rng, present if rng.random() < 0.75 else every)


def _count_colour(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    colour = _one(rng, [t.colour for t in seen], COLOURS)
    return f"How many {colour} objects are there?", _count(seen, colour)


def _count_shape(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    shape = _one(rng, [t.shape for t in seen], SHAPES)
    return f"How many {plural(shape)} are there?", _count(seen, shape)


def _digit(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    if not scene.digits:
        return None
    thing: Thing = _pick(rng, scene.digits)
    return f"What digit is at {_place(thing.row, thing.column)}?", NUMBERS[thing.digit or 0]


def _caption(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    return "Describe the image.", caption_of(seen)


def _place(row: int, column: int) -> str:
    return f"{ROWS[row]} {COLUMNS[column]}"


_ASK: dict[str, Callable[..., Asked | None]] = {
    "exist": _exist,
    "where": _where,
    "at": _at,
    "colour_at": _colour_at,
    "colour_of": _colour_of,
    "shape_of": _shape_of,
    "count_all": _count_all,
    "count_colour": _count_colour,
    "count_shape": _count_shape,
    "digit": _digit,
    "caption": _caption,
    "pope_random": _pope(_random),
    "pope_popular": _pope(_popular),
    "pope_adversarial": _pope(_adversarial),
    "left_of": left_of,
    "above": above,
    "nowhere": nowhere,
    "story": story,
    **signs.ASK,
}
