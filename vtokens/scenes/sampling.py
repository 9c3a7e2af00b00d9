"""Examples: a picture, a question about it and its one right answer, drawn by (split, seed, index)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image

from vtokens.core.prompts import question_prompt

from . import claims
from .compare import COMPARE, ask_two
from .kinds import EVERY_KIND, KINDS, check_kinds
from .lots import draw_scene
from .questions import ask
from .render import render
from .sentences import described, spoken
from .stories import STORIES
from .world import Scene, check_split, stream
from .worlds import check_world, furnish

_SECOND = 1000  # attempts from here on draw the second of two pictures
_WANTED = 102  # the number of the stream that says which answer two pictures shall have
_ATTEMPTS = 1000  # far more than the rarest kind needs; a bound, so that a fault cannot loop for ever


@dataclass(frozen=True)
class Example:
    """One question about one picture, or about two.

    image: PIL, RGB, 96 x 96. question: plain text (see `prompt`). answer: the right answer, or one of the right ones
    where the kind is of STORIES. kind: one of EVERY_KIND. split, seed, index: what the example was drawn from. scene:
    the exact ground truth. image2, scene2: the second picture of the kinds of COMPARE, None of all others.
    """

    image: Image.Image
    question: str
    answer: str
    kind: str
    split: str
    seed: int
    index: int
    scene: Scene
    image2: Image.Image | None = None
    scene2: Scene | None = None

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The pictures in the order that the question counts them in: one, or two."""
        return (self.image,) if self.image2 is None else (self.image, self.image2)


class Judged(Protocol):
    """What `score` reads of an example, of whatever it is one."""

    @property
    def answer(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def scene(self) -> Any: ...


def examples(
    split: str = "test",
    n: int = 110,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    sentences: bool = False,
    world: str = "plain",
) -> list[Example]:
    """Draw `n` examples, the kinds taking turns, so that they are balanced; the same on every machine.

    split: one of SPLITS. kinds: names from EVERY_KIND, by default all of KINDS. sentences: the same questions, put so
    that a sentence answers them ("Where is the red ring? Answer in a sentence."). world: one of WORLDS, what the same
    scenes stand in. scenes-llava was taught KINDS and POPE, in words and on plain ground. A longer list begins with the
    shorter one.
    Raises ValueError for an unknown split, kind or world (naming the nearest), n < 1 or a negative seed; `MissingExtra`
    for photographs whose package is not installed.
    """
    check_split(split)
    check_world(world)
    kinds = list(KINDS) if kinds is None else kinds
    check_kinds(kinds)
    check_number("n", n, 1)
    check_number("seed", seed, 0)
    drawn = [_draw(split, seed, index, kinds[index % len(kinds)], world) for index in range(n)]
    found = []
    for start in range(0, n, 64):
        part = drawn[start : start + 64]
        pixels = iter(render([scene for scenes, *_ in part for scene in scenes]))
        for scenes, kind, *asked in part:
            question, answer = _said(scenes[0], kind, *asked) if sentences else asked
            scene, image = scenes[0], Image.fromarray(next(pixels))
            one = Example(image, question, answer, kind, split, seed, scene.index, scene)
            if len(scenes) == 2:
                one = replace(one, image2=Image.fromarray(next(pixels)), scene2=scenes[1])
            found.append(one)
    return found


def check_number(name: str, value: int, least: int) -> None:
    """Raise TypeError if `value` is no int, ValueError if it is below `least`; `name` is what the message calls it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _draw(split: str, seed: int, index: int, kind: str, world: str) -> tuple[list[Scene], str, str, str]:
    wanted = stream(split, seed, index, 0, _WANTED).random() if kind in COMPARE else 0.0
    for attempt in range(_ATTEMPTS):
        scenes = [furnish(draw_scene(split, seed, index, attempt), world, kind)]
        rng = stream(split, seed, index, attempt, 10 + EVERY_KIND.index(kind))
        if kind in COMPARE:
            scenes.append(furnish(draw_scene(split, seed, index, _SECOND + attempt), world, kind))
            asked = ask_two(scenes, kind, rng, wanted)
        else:
            asked = ask(scenes[0], kind, rng)
        if asked is not None:
            return scenes, kind, *asked
    raise ValueError(f"no scene of split {split!r} carries questions of kind {kind!r}")


def _said(scene: Scene, kind: str, question: str, answer: str) -> tuple[str, str]:
    if kind in STORIES:
        return question, answer
    return described(scene.visible) if kind == "caption" else spoken(kind, question, answer)


def prompt(processor: Any, question: str, images: int = 1) -> str:
    """The chat prompt for `question` behind `images` picture placeholders (0 for none); see `vtokens.core.prompts`."""
    if isinstance(images, bool) or not isinstance(images, int) or images < 0:
        raise ValueError(f"images must be an int of at least 0, got {images!r}")
    return question_prompt(processor, question, images)


def normalise(answer: str) -> str:
    """The words of an answer in lower case, single spaces between, without punctuation."""
    return " ".join(re.findall(r"\w+", answer.lower()))


def score(answer: str, example: Judged) -> bool:
    """Whether `answer` is exactly the right one, case, spacing and punctuation aside.

    A story is right if it names all objects and no others, and says nothing of places, relations, counts and signs that
    is not true (see `vtokens.scenes.claims`).
    """
    if example.kind in STORIES:
        return claims.right(answer, example.scene)
    return normalise(answer) == normalise(example.answer)
