"""Modifiers: each sees what the pruner before it selected, and what it prepared itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

import vtokens
from tests.families import build, image, inputs
from vtokens.core.facts import Facts
from vtokens.strategies import ScorePruner, Selection, Strategy, Visuals


@dataclass(frozen=True)
class First(ScorePruner):
    """Scores by what it prepared."""

    name: ClassVar[str] = "first"
    seen: ClassVar[list[Any]] = []

    def prepare(self, facts: Facts) -> str:
        return "the pruner's"

    def score(self, visuals: Visuals) -> torch.Tensor:
        self.seen.append(visuals.prepared)
        return -visuals.cells.float()


@dataclass(frozen=True)
class More(Strategy):
    """Keeps as many tokens more as it prepared, the earliest ones."""

    name: ClassVar[str] = "more"
    seen: ClassVar[list[Any]] = []
    many: int = 1

    def prepare(self, facts: Facts) -> int:
        return self.many

    def at_selection(self, visuals: Visuals, selection: Selection) -> Selection:
        self.seen.append(visuals.prepared)
        scores = (-visuals.cells.float()).masked_fill(selection.keep, torch.inf)
        assert selection.counts is not None
        return visuals.best(scores, [count + visuals.prepared for count in selection.counts])


@pytest.mark.parametrize("budget", ["per_image", "per_frame"])
@torch.no_grad()
def test_each_modifier_is_given_what_it_prepared(budget: str) -> None:
    """Not what the pruner did, nor another modifier; whatever groups the pruner chooses among."""
    model, processor = build("llava")
    First.seen.clear()
    More.seen.clear()
    with vtokens.attach(model, [First(keep=4, budget=budget), More(2), More(3)]) as handle:  # type: ignore[arg-type]
        model(**inputs(processor, ["<image> hi"], [[image(56, 56, seed=0)]]))
        report = handle.report()
    assert (First.seen, More.seen) == (["the pruner's"], [2, 3])
    assert report.samples[0].pictures[0].kept[0].tolist() == list(range(9))
