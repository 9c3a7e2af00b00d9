"""Examples: a picture, a question about it and its one right answer, drawn by (split, seed, index)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vtokens.core.prompts import question_prompt

from .questions import ALL_KINDS, KINDS, ask, check_kinds
from .relations import HARDER
from .render import render
from .sentences import described, spoken
from .world import Scene, check_split, draw_scene, stream

_ATTEMPTS = 1000  # far more than the rarest kind needs; a bound, so that a fault cannot loop for ever


@dataclass(frozen=True)
class Example:
    """One question about one picture.

    image: PIL, RGB, 96 x 96. question: plain text (see `prompt`). answer: the right answer. kind: one of KINDS, POPE or
    HARDER. split, seed, index: what the example was drawn from. scene: the exact ground truth.
    """

    image: Image.Image
    question: str
    answer: str
    kind: str
    split: str
    seed: int
    index: int
    scene: Scene


def examples(
    split: str = "test", n: int = 110, seed: int = 0, kinds: Sequence[str] | None = None, sentences: bool = False
) -> list[Example]:
    """Draw `n` examples, the kinds taking turns, so that they are balanced; the same on every machine.

    split: one of SPLITS. kinds: names from KINDS, POPE and HARDER, by default all of KINDS. sentences: the same
    questions, put so that a sentence answers them ("Where is the red ring? Answer in a sentence."); scenes-llava knows
    words only. A longer list begins with the shorter one.
    Raises ValueError for an unknown split or kind (naming the nearest), n < 1 or a negative seed.
    """
    check_split(split)
    kinds = list(KINDS) if kinds is None else kinds
    check_kinds(kinds)
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    drawn = [_draw(split, seed, index, kinds[index % len(kinds)]) for index in range(n)]
    found = []
    for start in range(0, n, 64):
        part = drawn[start : start + 64]
        for (scene, kind, *asked), pixels in zip(part, render([p[0] for p in part]), strict=True):
            question, answer = _said(scene, kind, *asked) if sentences else asked
            image = Image.fromarray(pixels)
            found.append(Example(image, question, answer, kind, split, seed, scene.index, scene))
    return found


def _draw(split: str, seed: int, index: int, kind: str) -> tuple[Scene, str, str, str]:
    for attempt in range(_ATTEMPTS):
        scene = draw_scene(split, seed, index, attempt)
        rng = stream(split, seed, index, attempt, 10 + (ALL_KINDS + HARDER).index(kind))
        asked = ask(scene, kind, rng)
        if asked is not None:
            return scene, kind, *asked
    raise ValueError(f"no scene of split {split!r} carries questions of kind {kind!r}")


def _said(scene: Scene, kind: str, question: str, answer: str) -> tuple[str, str]:
    return described(scene.visible) if kind == "caption" else spoken(kind, question, answer)


def prompt(processor: Any, question: str, images: int = 1) -> str:
    """The chat prompt for `question` behind `images` picture placeholders (0 for none); see `vtokens.core.prompts`."""
    if isinstance(images, bool) or not isinstance(images, int) or images < 0:
        raise ValueError(f"images must be an int of at least 0, got {images!r}")
    return question_prompt(processor, question, images)


def normalise(answer: str) -> str:
    """The words of an answer in lower case, single spaces between, without punctuation."""
    return " ".join(re.findall(r"\w+", answer.lower()))


def score(answer: str, example: Example) -> bool:
    """Whether `answer` is exactly the right one, case, spacing and punctuation aside."""
    return normalise(answer) == normalise(example.answer)
