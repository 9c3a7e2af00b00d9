"""Free-form captions: several sentences that name every object once or more, tell places and relations, and count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .compare import plural
from .signs import place as sign_place
from .world import COLOURS, COLUMNS, NUMBERS, ROWS, SHAPES, Scene, Thing

#: Kinds that are answered by several sentences, of which many are right; `vtokens.scenes.claims` reads them.
STORIES = ("story",)
STORY_REQUEST = "Describe the image in your own words."

_OPENINGS = ("The picture shows {}.", "There {} {} in this picture.", "I can see {}.")


def story(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> tuple[str, str] | None:
    """The request, and one of the right captions: an opening that counts, the things in raster order, the rest."""
    things = sorted(seen, key=lambda t: t.cell)
    number = f"{NUMBERS[len(things)]} object{'' if len(things) == 1 else 's'}"
    opening = _OPENINGS[int(rng.integers(len(_OPENINGS)))]
    told = [
        opening.format("is" if len(things) == 1 else "are", number) if "{} {}" in opening else opening.format(number)
    ]
    for n, thing in enumerate(things):
        told.append(_told(thing, things[n - 1] if n else None, rng))
    told += [f"The {t.name} is at {_place(t)}." for t in scene.digits]
    told += [f"The sign at {sign_place(s)} says {s.word}." for s in scene.signs]
    groups = _groups(things)
    if groups and rng.random() < 0.5:
        told.append(f"There are {groups[int(rng.integers(len(groups)))]}.")
    return STORY_REQUEST, " ".join(told)


def _told(thing: Thing, before: Thing | None, rng: np.random.Generator) -> str:
    luck = rng.random()
    if before is not None and luck < 0.4:
        how = "Right of" if thing.row == before.row else "Below"
        return f"{how} the {before.name} there is a {thing.name}."
    if luck < 0.7:
        return f"A {thing.name} is at {_place(thing)}."
    return f"At {_place(thing)} there is a {thing.name}."


def _place(thing: Thing) -> str:
    return f"{ROWS[thing.row]} {COLUMNS[thing.column]}"


def _groups(things: Sequence[Thing]) -> list[str]:
    """What there are several of: 'two red objects', 'three circles'."""
    found = []
    for word in (*COLOURS, *SHAPES):
        count = sum(word in (t.colour, t.shape) for t in things)
        if 1 < count < len(things):
            found.append(f"{NUMBERS[count]} {f'{word} objects' if word in COLOURS else plural(word)}")
    return found
