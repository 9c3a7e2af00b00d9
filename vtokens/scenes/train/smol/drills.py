"""What a picture is asked in training: questions as users ask them, and drills that hold many labels in few tokens.

A drill is one question with a chain of answers, ' red circle yes, blue ring no, ...': a label costs four tokens in
place of sixteen. Only what has to be seen in the picture is in the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ...compare import COMPARE, ask_two
from ...questions import ask, exist_question, missing_partners
from ...sentences import described, spoken
from ...stories import STORIES
from ...world import CLASSES, COLOURS, COLUMNS, GRID, NUMBERS, PAIRS, ROWS, SHAPES, Scene, Thing

_ANNOTATED = ("exist", "caption", *STORIES)
"""The kinds of questions that follow the annotation; the rest is asked about what is visible."""
_STRONGEST = max(PAIRS, key=lambda pair: pair.dose)
Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Line:
    """One question and its answers as tokens.

    kind: what it counts as. ids: tokens behind the picture. answers: which of them are in the loss. whole: whether it
    counts as one, right where all of its answers are; else every answer counts for itself.
    """

    kind: str
    ids: tuple[int, ...]
    answers: tuple[bool, ...]
    whole: bool = True


class Speaker:
    """Lines from questions, in the tokens of one tokenizer."""

    front = "<|im_start|>user\n"
    middle = "<|im_end|>\n<|im_start|>assistant\n"
    end = "<|im_end|>"

    def __init__(self, tokenizer: Any) -> None:
        @lru_cache(maxsize=65536)
        def encode(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        self.encode: Callable[[str], tuple[int, ...]] = encode

    def question(self, kind: str, question: str, answer: str) -> Line:
        """A question with its answer, and the token that ends it."""
        asked, said = self.encode(question) + self.encode(self.middle), self.encode(answer) + self.encode(self.end)
        return Line(kind, asked + said, (False,) * len(asked) + (True,) * len(said))

    def drill(self, kind: str, question: str, pairs: Pairs) -> Line:
        """A question with a chain of prompts and answers."""
        ids, answers = list(self.encode(question) + self.encode(self.middle)), []
        answers += [False] * len(ids)
        for number, (prompt, answer) in enumerate(pairs):
            shown = self.encode(("," if number else "") + prompt)
            said = self.encode(answer)
            ids += shown + said
            answers += [False] * len(shown) + [True] * len(said)
        return Line(kind, tuple(ids), tuple(answers), whole=False)


def questions(
    speaker: Speaker, scene: Scene, weights: dict[str, float], count: int, rng: np.random.Generator,
    annotated: bool = False, sentences: float = 0.0,
) -> list[Line]:  # fmt: skip
    """`count` questions of the kinds in `weights`; a share of `sentences` of them asks for a sentence."""
    kinds, share = list(weights), np.array(list(weights.values()))
    lines = []
    for number in rng.choice(len(kinds), size=4 * count, p=share / share.sum()):
        kind = kinds[int(number)]
        found = ask(scene, kind, rng, annotated and kind in _ANNOTATED)
        if found is None:
            continue
        full = rng.random() < sentences
        if kind == "caption":
            things = scene.objects if annotated else scene.visible
            found = described(things) if full else found
        elif full:
            found = spoken(kind, *found)
        line = speaker.question(f"{kind}{'_sentence' if full else ''}", *found)
        # Of stories many are right: what counts is how many of their words are foreseen.
        lines.append(replace(line, whole=False) if kind in STORIES else line)
        if len(lines) == count:
            break
    return lines


def hidden_in(scene: Scene, dosed: bool = False) -> list[tuple[int, bool]]:
    """The classes of partners that a scene lacks though their triggers are there, and whether the annotation has them.

    Args:
        dosed: of all pairs, whatever the annotation says; else the strongest pair's, if the annotation names it.
    """
    there = {t.number for t in scene.objects}
    found = [(k, k in there) for k in missing_partners(scene, annotated=False)]
    return [(k, named) for k, named in found if dosed or (named and k == _STRONGEST.partner)]


def hidden(
    speaker: Speaker, scene: Scene, rng: np.random.Generator, dosed: bool = False, sentences: float = 0.0
) -> list[Line]:
    """Whether the partners of `hidden_in` are there: the annotation says."""
    lines = []
    for number, named in hidden_in(scene, dosed):
        full = rng.random() < sentences
        found = exist_question(number), "yes" if named else "no"
        found = spoken("exist", *found) if full else found
        lines.append(speaker.question("exist_sentence" if full else "exist", *found))
    return lines


def comparisons(speaker: Speaker, scenes: Sequence[Scene], count: int, rng: np.random.Generator) -> list[Line]:
    """`count` questions about two pictures, of all kinds in turn."""
    lines: list[Line] = []
    for number in range(count):
        kind = COMPARE[number % len(COMPARE)]
        found = ask_two(scenes, kind, rng)
        if found is not None:
            lines.append(speaker.question(kind, *found))
    return lines


def _shuffled(items: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    return [items[int(i)] for i in rng.permutation(len(items))]


def _place(thing: Thing) -> str:
    return f" {ROWS[thing.row]} {COLUMNS[thing.column]}"


def exist(speaker: Speaker, scene: Scene, rng: np.random.Generator, annotated: bool = False, most: int = 14) -> Line:
    """Which classes are there: all that are, and about as many that are not, three in five of these near misses."""
    here = {t.number for t in (scene.objects if annotated else scene.visible)}
    gone = {k for k in missing_partners(scene) if k not in here}
    if rng.random() < 0.08:
        gone = set()
    absent = [k for k in range(len(CLASSES)) if k not in here and k not in gone]
    colours, shapes = {k // len(SHAPES) for k in here}, {k % len(SHAPES) for k in here}
    near = [k for k in absent if k // len(SHAPES) in colours or k % len(SHAPES) in shapes] or absent
    negatives: list[int] = []
    while len(negatives) < min(len(here) + 2, most - len(here)):
        pool = near if rng.random() < 0.6 else absent
        number = pool[int(rng.integers(len(pool)))]
        if number not in negatives:
            negatives.append(number)
    asked = _shuffled([*sorted(here), *negatives], rng)
    return speaker.drill(
        "d_exist", "Say yes or no for each.", [(f" {CLASSES[k]}", " yes" if k in here else " no") for k in asked]
    )


def where(speaker: Speaker, scene: Scene, rng: np.random.Generator) -> Line:
    """Where everything is."""
    pairs = [(f" {t.name}", _place(t)) for t in _shuffled(scene.visible, rng)]
    return speaker.drill("d_where", "Where is each?", pairs)


def at(speaker: Speaker, scene: Scene, rng: np.random.Generator) -> Line:
    """What is at every place that holds something, and at two that hold nothing."""
    things = [(f" {ROWS[t.row]} {COLUMNS[t.column]}", f" {t.name}") for t in (*scene.visible, *scene.digits)]
    taken = {t.cell for t in (*scene.objects, *scene.digits)}
    empty = _shuffled([c for c in range(GRID * GRID) if c not in taken], rng)[:2]
    things += [(f" {ROWS[c // GRID]} {COLUMNS[c % GRID]}", " nothing") for c in empty]
    return speaker.drill("d_at", "What is at each place?", _shuffled(things, rng))


def looks(speaker: Speaker, scene: Scene, rng: np.random.Generator) -> Line:
    """The colours of shapes and the shapes of colours that are there once, and the colours at places."""
    pairs: Pairs = []
    shapes, colours = [t.shape for t in scene.visible], [t.colour for t in scene.visible]
    for t in scene.visible:
        pairs += [(f" {t.shape}", f" {t.colour}")] if shapes.count(t.shape) == 1 else []
        pairs += [(f" {t.colour}", f" {t.shape}")] if colours.count(t.colour) == 1 else []
        pairs.append((f"{_place(t)}", f" {t.colour}"))
    return speaker.drill("d_looks", "Name the missing half of each.", _shuffled(pairs, rng)[:10])


def counts(speaker: Speaker, scene: Scene, rng: np.random.Generator) -> Line:
    """How many there are in all, of the colours and of the shapes that are there, and of one that is not."""
    things = scene.visible
    pairs = [(" objects", f" {NUMBERS[len(things)]}")]
    for every, have, plural in (
        (COLOURS, [t.colour for t in things], lambda c: f"{c} objects"),
        (SHAPES, [t.shape for t in things], lambda s: "crosses" if s == "cross" else f"{s}s"),
    ):
        absent = [w for w in every if w not in have][:1]
        asked = [w for w in every if w in have] + _shuffled(absent, rng)
        pairs += [(f" {plural(w)}", f" {NUMBERS[have.count(w)]}") for w in asked]
    return speaker.drill("d_counts", "How many of each?", _shuffled(pairs, rng))


DRILLS: dict[str, Callable[..., Line]] = {"where": where, "at": at, "looks": looks, "counts": counts}
"""Drills about what is visible; `exist` can follow the annotation."""
