"""A row of the leaderboard: accuracies, hallucinations and costs of a strategy, and whether it beats both floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vtokens import scenes
from vtokens.eval.hallucination import grade
from vtokens.eval.metrics.intervals import ratio
from vtokens.eval.metrics.paired import difference

FLOORS = ("random", "downsample")
"""What a pruner has to beat at the same keep: tokens drawn by lot, and a smaller picture."""
COLUMNS = {
    "all": None,
    "digits": ("digit",),
    "where": ("where", "at"),
    "counting": ("count_all", "count_colour", "count_shape"),
    "pope": ("pope_adversarial",),
}
"""The accuracies, by the kinds of questions that go into them; None is all of them."""


@dataclass(frozen=True)
class Replies:
    """What was asked, what was said, and the visual tokens a layer that each answer had."""

    examples: Sequence[scenes.Example]
    texts: Sequence[str]
    tokens: Sequence[float]

    @property
    def right(self) -> np.ndarray:
        """int64 (n,): 1 where the answer is right."""
        pairs = zip(self.texts, self.examples, strict=True)
        return np.array([int(scenes.score(text, example)) for text, example in pairs])

    @property
    def groups(self) -> list[tuple[Any, ...]]:
        """The scene of each question: those about one are no independent samples."""
        return [(one.seed, one.scene.split, one.scene.seed, one.scene.index) for one in self.examples]


def row(
    strategy: str, keep: float, replies: Replies, times: Mapping[str, float], floors: Mapping[str, Replies]
) -> dict[str, Any]:
    """The figures of one strategy at one keep, with 95% intervals over scenes, and its `times` if there are some.

    `over` is by how much of all questions it is ahead of each floor, paired. `better` is whether both intervals lie
    above 0, `worse` whether either lies below; neither is said where a floor is missing.
    """
    right, groups = replies.right, replies.groups
    kinds = np.array([example.kind for example in replies.examples])
    accuracy = {}
    for column, wanted in COLUMNS.items():
        chosen = np.isin(kinds, wanted) if wanted else np.ones(len(kinds), dtype=bool)
        inside = [group for group, there in zip(groups, chosen, strict=True) if there]
        found = ratio(right[chosen], np.ones(int(chosen.sum()), dtype=int), groups=inside) if chosen.any() else None
        if found is not None:
            accuracy[column] = asdict(found)
    ones = np.ones(len(right), dtype=int)
    over = {
        name: asdict(gap)
        for name, floor in floors.items()
        if (gap := difference((right, ones), (floor.right, ones), groups=groups)) is not None
    }
    told: dict[str, Any] = {
        "strategy": strategy,
        "keep": keep,
        "tokens_per_layer": float(np.mean(replies.tokens)),
        **times,
        "accuracy": accuracy,
    }
    captions = [(e, text) for e, text in zip(replies.examples, replies.texts, strict=True) if e.kind == "caption"]
    graded = grade(*map(list, zip(*captions, strict=True))).chair if captions else None
    if graded:
        told["chair"] = {name: asdict(part) for name in ("chair_i", "recall") if (part := getattr(graded, name))}
    if over:
        told["over"] = over
    if {*over} == {*FLOORS}:
        told["better"] = all(gap["low"] > 0 for gap in over.values())
        told["worse"] = any(gap["high"] < 0 for gap in over.values())
    return told
