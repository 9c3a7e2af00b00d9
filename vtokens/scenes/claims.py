"""What a free-form caption claims, read back out of its sentences, and whether it is true of a scene."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .signs import place as sign_place
from .world import COLOURS, COLUMNS, NUMBERS, ROWS, SHAPES, Scene, Thing

_CLASS = rf"(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})"
_DIGIT = rf"digit (?:{'|'.join(NUMBERS)})"
_PLACE = r"row[1-4] column[1-4]"
_HOW = r"left of|right of|above|below"
_SHAPES = "|".join(f"{s}(?:e?s)?" for s in SHAPES)
_SAYS = (
    ("place", rf"(?P<name>{_CLASS}|{_DIGIT})(?: is| lies| stands)? at (?P<place>{_PLACE})"),
    ("place", rf"(?P<place>{_PLACE}),? (?:there )?is an? (?P<name>{_CLASS}|{_DIGIT})"),
    ("relation", rf"(?P<name>{_CLASS}) is (?P<how>{_HOW}) the (?P<other>{_CLASS})"),
    ("relation", rf"(?P<how>{_HOW}) the (?P<other>{_CLASS}),? (?:there )?is an? (?P<name>{_CLASS})"),
    ("count", rf"(?P<number>{'|'.join(NUMBERS)}) (?P<what>(?:(?:{'|'.join(COLOURS)}) )?(?:objects?|{_SHAPES}))\b"),
    ("sign", rf"sign at (?P<place>{_PLACE}) (?:says|reads) (?P<word>\w+)"),
)
_PATTERNS = tuple((kind, re.compile(rf"\b{pattern}")) for kind, pattern in _SAYS)
_PARTS = {
    "place": ("name", "place"),
    "relation": ("name", "how", "other"),
    "count": ("number", "what"),
    "sign": ("place", "word"),
}
_NAME = re.compile(rf"(?<!\bno )\b{_CLASS}\b")


@dataclass(frozen=True)
class Claim:
    """One statement. parts, by kind: of a "place" ("red circle", "row1 column2"), of a "relation" ("red circle",
    "above", "blue ring"), of a "count" ("two", "red objects"), of a "sign" ("row1 column2", "lamp").
    """

    kind: str
    parts: tuple[str, ...]


def named(text: str) -> list[str]:
    """The objects that a text says are there, such as ['red circle', 'blue square'], in its order, repeats included."""
    return _NAME.findall(_plain(text))


def claims(text: str) -> list[Claim]:
    """What a text claims of places, relations, counts and printed words."""
    return [
        Claim(kind, tuple(match[part] for part in _PARTS[kind]))
        for kind, pattern in _PATTERNS
        for match in pattern.finditer(_plain(text))
    ]


def holds(claim: Claim, scene: Scene) -> bool:
    """Whether a claim is true of what is visible in a scene."""
    here = {t.name: t for t in scene.visible}
    if claim.kind == "place":
        name, place = claim.parts
        return any(t.name == name and _place(t) == place for t in (*scene.visible, *scene.digits))
    if claim.kind == "sign":
        return any((sign_place(s), s.word) == claim.parts for s in scene.signs)
    if claim.kind == "count":
        number, what = claim.parts
        wanted = {_singular(word) for word in what.split()} - {"object"}
        return sum(wanted <= {t.colour, t.shape} for t in scene.visible) == NUMBERS.index(number)
    one, how, other = claim.parts
    if one not in here or other not in here:
        return False
    a, b = here[one], here[other]
    return {
        "left of": a.column < b.column,
        "right of": a.column > b.column,
        "above": a.row < b.row,
        "below": a.row > b.row,
    }[how]


def right(text: str, scene: Scene) -> bool:
    """Whether a caption names all visible objects and no others, and claims nothing that is not true."""
    return {*named(text)} == {t.name for t in scene.visible} and all(holds(claim, scene) for claim in claims(text))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _place(thing: Thing) -> str:
    return f"{ROWS[thing.row]} {COLUMNS[thing.column]}"


def _singular(word: str) -> str:
    return next((w for w in (*SHAPES, "object") if word in (w, f"{w}s", f"{w}es")), word)
