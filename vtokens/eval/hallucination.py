"""Does a model see what is not there? POPE and CHAIR on scenes, whose ground truth is exact.

asked = hallucination.exam("test")
with vtokens.attach(model, "cls(keep=0.25)"):
    replies = scenes.answer(model, processor, asked)
hallucination.grade(asked, replies).chair.chair_i
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vtokens.engine import attach
from vtokens.eval.metrics import Chair, Pope, chair, pope, yes_no
from vtokens.scenes import CLASSES, POPE, Example, answer, examples

#: The settings of POPE, by what the objects asked for in vain are.
SETTINGS = tuple(kind.removeprefix("pope_") for kind in POPE)
_OBJECT = re.compile(r"\b(?:" + "|".join(CLASSES) + r")\b")


@dataclass(frozen=True)
class Grades:
    """POPE by setting ('random', 'popular', 'adversarial'), and CHAIR; empty and None for what was not asked.

    unread: captions with words that name no object of the world, such as a colour without a shape. What they name
    besides is counted in `chair`. Stories, which are sentences, are captions of which this is not asked.
    """

    pope: dict[str, Pope]
    chair: Chair | None
    unread: int


def exam(split: str = "test", questions: int = 1000, captions: int = 500, seed: int = 0) -> list[Example]:
    """Yes/no questions in each of POPE's three settings, then captions, every one about a scene of its own.

    Half of the questions ask for something that is there. questions: in each setting. Either number may be 0. Raises
    ValueError for an unknown split, a negative number or nothing to ask.
    """
    if min(questions, captions) < 0 or not questions + captions:
        raise ValueError(f"questions and captions must be 0 or more and not both 0, got {questions} and {captions}")
    numbers = dict.fromkeys(POPE, questions) | {"caption": captions}
    return [e for kind, n in numbers.items() if n for e in examples(split, n=n, seed=seed, kinds=[kind])]


def mentioned(caption: str) -> list[str]:
    """The objects a caption names, such as ['red circle', 'blue square'], in its order, repeats included."""
    return _OBJECT.findall(_words(caption))


def visible(example: Example) -> set[str]:
    """The objects that are really in the picture."""
    return {thing.name for thing in example.scene.visible}


def examine(
    model: Any,
    processor: Any,
    asked: Sequence[Example],
    strategy: str = "none",
    keep: Any = None,
    *,
    batch_size: int = 32,
    **options: Any,
) -> Grades:
    """Ask a model an exam under a strategy (given as to `vtokens.attach`) and grade its greedy answers.

    The model is left as it was. Raises what `vtokens.attach`, `vtokens.scenes.answer` and `grade` raise.
    """
    with attach(model, strategy, keep, **options):
        replies = answer(model, processor, asked, batch_size)
    return grade(asked, replies)


def grade(asked: Sequence[Example], replies: Sequence[str], **bootstrap: Any) -> Grades:
    """Grade the replies to an exam (or to any part of one).

    `bootstrap`: confidence, resamples and seed of the intervals (`vtokens.eval.metrics.bootstrap`). Raises ValueError
    for lists of different length and for examples that are neither yes/no questions nor captions.
    """
    if len(asked) != len(replies):
        raise ValueError(f"need one reply an example, got {len(replies)} for {len(asked)}")
    by_kind: dict[str, list[tuple[Example, str]]] = {}
    for example, reply in zip(asked, replies, strict=True):
        by_kind.setdefault(example.kind, []).append((example, reply))
    captions, stories = by_kind.pop("caption", []), by_kind.pop("story", [])
    found = {}
    for kind, pairs in by_kind.items():
        if kind not in POPE and kind != "exist":
            raise ValueError(f"examples of kind {kind!r} are neither yes/no questions nor captions")
        said = [yes_no(reply) for _, reply in pairs]
        found[kind.removeprefix("pope_")] = pope(said, [e.answer == "yes" for e, _ in pairs], **bootstrap)
    told = captions + stories
    if not told:
        return Grades(found, None, 0)
    named = [mentioned(reply) for _, reply in told]
    unread = sum(re.search(r"\w", _OBJECT.sub("", _words(reply))) is not None for _, reply in captions)
    return Grades(found, chair(named, [visible(e) for e, _ in told], **bootstrap), unread)


def _words(caption: str) -> str:
    return " ".join(caption.lower().split())
