"""The functions that the YAML files beside this call: documents to prompts, and answers to scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vtokens.eval.metrics import Interval, yes_no
from vtokens.eval.metrics import chair as chair_of
from vtokens.eval.metrics import pope as pope_of
from vtokens.scenes import COLOURS, SHAPES
from vtokens.scenes.sampling import normalise
from vtokens.scenes.world import NUMBERS

Document = Mapping[str, Any]
_OBJECT = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(?:e?s)?\b")


def visuals(doc: Document) -> list[Any]:
    """The document's pictures."""
    return list(doc["images"]) if "images" in doc else [doc["image"]]


def text(doc: Document, options: Mapping[str, Any]) -> str:
    """The question; `post_prompt` follows it, for models that need to be told how to answer."""
    return f"{doc['question']}{options.get('post_prompt', '')}"


def same(answer: str, target: str) -> bool:
    """Whether an answer is exactly the right one: case, spacing and punctuation aside, and digits read as words."""
    words = [NUMBERS[int(word)] if re.fullmatch("[0-9]", word) else word for word in normalise(answer).split()]
    return " ".join(words) == normalise(target)


def score_exact(doc: Document, results: Sequence[str]) -> dict[str, float]:
    """1 for the right answer, 0 for another."""
    return {"exact": float(same(results[0], doc["answer"]))}


def score_pope(doc: Document, results: Sequence[str]) -> dict[str, Any]:
    """What POPE counts: [said yes, is there], for its ratios, and two numbers."""
    said, truth = yes_no(results[0]), doc["answer"] == "yes"
    record = [said, truth]
    shares = {"accuracy": float(said is truth), "yes_ratio": float(said is True)}
    return shares | dict.fromkeys(("precision", "recall", "f1"), record)


def score_caption(doc: Document, results: Sequence[str]) -> dict[str, Any]:
    """What CHAIR counts: [objects named, objects there], for its ratios, and numbers."""
    named = [" ".join(found) for found in _OBJECT.findall(results[0].lower())]
    record = [named, list(doc["objects"])]
    return {
        "chair_s": float(any(name not in doc["objects"] for name in named)),
        "chair_i": record,
        "object_recall": record,
        "length": float(len(normalise(results[0]).split())),
        "exact": float(same(results[0], doc["answer"])),
    }


class Ratio:
    """An aggregation of records that one of our metrics counts, callable as lmms-eval wants it.

    Args:
        metric: takes (firsts, seconds) of the records and `resamples`.
        figure: which of its intervals; NaN where it is not defined, as precision is when nothing was answered 'yes'.
    """

    def __init__(self, metric: Callable[..., Any], figure: str) -> None:
        self.metric, self.figure, self.__name__ = metric, figure, figure

    def interval(self, records: Sequence[Any]) -> Interval | None:
        """The figure with its 95% interval."""
        return self._of(records)

    def __call__(self, records: Sequence[Any]) -> float:
        found = self._of(records, resamples=2)  # the interval that comes with it is not asked for here
        return float("nan") if found is None else float(found.value)

    def _of(self, records: Sequence[Any], **more: Any) -> Interval | None:
        found: Interval | None = getattr(self.metric(*zip(*records, strict=True), **more), self.figure)
        return found


precision, recall, f1 = (Ratio(pope_of, figure) for figure in ("precision", "recall", "f1"))
chair_i, object_recall = (Ratio(chair_of, figure) for figure in ("chair_i", "recall"))
