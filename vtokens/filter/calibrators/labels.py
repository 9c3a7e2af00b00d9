"""Labels of mentions from ground truth: exact for scenes, and by CHAIR's procedure for COCO."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vtokens.filter.calibrators.coco_labels import CocoLabels
from vtokens.filter.mentions.base import Mention
from vtokens.filter.mentions.scenes import singular
from vtokens.scenes import COLOURS, SHAPES, Example, Scene, Thing
from vtokens.scenes.world import COLUMNS, NUMBERS, ROWS

__all__ = ["CocoLabels", "label_scenes"]


def label_scenes(scene: Example | Scene, mentions: Sequence[Mention]) -> list[bool]:
    """For each mention of the extractor "scenes", whether the picture does not support it. Exact.

    Only what is visible counts: a partner that stands in the annotation alone is hallucinated. A denial ("no") is
    hallucinated where the object is there.

    Raises:
        ValueError: a mention whose name is not one that this extractor gives.
    """
    truth = scene.scene if isinstance(scene, Example) else scene
    return [_holds(truth, mention.name) == mention.negated for mention in mentions]


def _holds(scene: Scene, name: str) -> bool:
    """Whether what a name claims is true of a scene."""
    way = next((way for way in _WAYS if f" {way} " in name), None)
    if way is not None:
        first, second = (name.split(f" {way} ")[side].split() for side in (0, 1))
        if not first or not second or not {*first, *second} <= {*COLOURS, *SHAPES}:
            raise _unreadable(name)
        pairs = [(a, b) for a in _like(scene, first) for b in _like(scene, second) if a is not b]
        return any(_WAYS[way](a, b) for a, b in pairs)
    words, _, place = (part.split() for part in name.partition(" at "))
    here = [*scene.visible, *scene.digits]
    printed = len(scene.signs)
    if place:
        if len(place) != 2 or place[0] not in ROWS or place[1] not in COLUMNS:
            raise _unreadable(name)
        cell = ROWS.index(place[0]), COLUMNS.index(place[1])
        here = [thing for thing in here if (thing.row, thing.column) == cell]
        printed = sum(s.row == cell[0] and s.column <= cell[1] < s.column + s.cells for s in scene.signs)
    if words == ["nothing"]:
        return not here and not printed
    if len(words) == 2 and words[0] == "digit" and words[1] in NUMBERS:
        return any(thing.name == " ".join(words) for thing in here)
    count = NUMBERS.index(words.pop(0)) if len(words) > 1 and words[0] in NUMBERS else None
    wanted = {singular(word) for word in words} - {"object", "objects"}
    if not words or not wanted <= {*COLOURS, *SHAPES}:
        raise _unreadable(name)
    fit = sum(wanted <= {thing.colour, thing.shape} for thing in here if thing.digit is None)
    return fit > 0 if count is None else fit == count


#: How the first of two objects is to the second; others ("near", "behind") are not exact in a grid.
_WAYS: dict[str, Callable[[Thing, Thing], bool]] = {
    "left of": lambda a, b: a.column < b.column,
    "right of": lambda a, b: a.column > b.column,
    "above": lambda a, b: a.row < b.row,
    "below": lambda a, b: a.row > b.row,
    "beside": lambda a, b: a.row == b.row and abs(a.column - b.column) == 1,
}


def _like(scene: Scene, words: Sequence[str]) -> list[Thing]:
    return [thing for thing in scene.visible if {*words} <= {thing.colour, thing.shape}]


def _unreadable(name: str) -> ValueError:
    return ValueError(f"{name!r} claims nothing about scenes; take the mentions of get_extractor('scenes')")
