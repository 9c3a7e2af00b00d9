"""Budgets, drawn: of every group of tokens stay those with the highest scores, as many as counting says."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.engine.cases import COUNTS, SHARES, Case, cases, model, share
from tests.families import EVERY
from vtokens.core.budget import budget, shares
from vtokens.strategies import ScorePruner, Visuals, parse

GROUPINGS = ("image", "view", "frame", "sample")


@dataclass(frozen=True)
class Scored(ScorePruner):
    """Scores drawn at random and noted, group by group."""

    name: ClassVar[str] = "scored"
    seed: int = 0
    noted: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def score(self, visuals: Visuals) -> Tensor:
        scores = torch.rand(visuals.valid.shape, generator=torch.Generator().manual_seed(self.seed))
        self.noted["scores"] = scores
        return scores


@dataclass(frozen=True)
class Late(Scored):
    """The same before a decoder layer."""

    stage = "layer"
    layer: int = 1


KINDS: dict[tuple[bool, str], Any] = {
    (late, grouping): type(f"By{grouping}", (Late if late else Scored,), {"grouping": grouping})
    for late, grouping in product((False, True), GROUPINGS)
}
Token = tuple[int, int, int]
"""Sample, picture of that sample, and cell of that picture."""


def chosen(strategy: Scored, samples: Any, there: list[Token]) -> set[Token]:
    """The tokens that stay of those that are `there`, worked out one by one."""
    scores = strategy.noted["scores"]
    groups: dict[tuple[int, ...], list[Token]] = {}
    if strategy.grouping == "sample":  # those without pictures too
        groups = {(row,): [] for row in range(len(samples))}
    pictures = [(row, *numbered) for row, sample in enumerate(samples) for numbered in enumerate(sample.pictures)]
    for row, number, part in sorted(pictures, key=lambda one: one[2].picture.modality):  # images come first
        for view, t in zip(part.picture.view.tolist(), part.picture.t.tolist(), strict=True):
            if view >= 0:  # of which nothing may be left
                groups.setdefault(_group(strategy, row, number, view, t), [])
    for row, number, cell in there:
        picture = samples[row].pictures[number].picture
        key = _group(strategy, row, number, int(picture.view[cell]), int(picture.t[cell]))
        groups[key].append((row, number, cell))
    value = {token: float(scores[g, m]) for g, group in enumerate(groups.values()) for m, token in enumerate(group)}

    def best(tokens: list[Token], count: int) -> list[Token]:
        return sorted(tokens, key=lambda token: -value[token])[:count]

    found: list[Token] = []
    for row, sample in enumerate(samples):
        own = [[token for token in there if token[:2] == (row, number)] for number in range(len(sample.pictures))]
        budgets = [budget(len(tokens), strategy.keep) for tokens in own]
        if strategy.budget == "global" or strategy.grouping == "sample":
            found += best([token for tokens in own for token in tokens], sum(budgets))
            continue
        for number, total in enumerate(budgets):
            parts = [tokens for key, tokens in groups.items() if key[:2] == (row, number)]
            for tokens, count in zip(parts, shares(total, [len(tokens) for tokens in parts]), strict=True):
                found += best(tokens, count)
    return {*found}


def _group(strategy: Scored, row: int, number: int, view: int, t: int) -> tuple[int, ...]:
    """Which group a token is in."""
    key = {"sample": (row,), "image": (row, number), "view": (row, number, view), "frame": (row, number, view, t)}
    return key[strategy.grouping]


@pytest.mark.fuzz
@settings(max_examples=share(4))
@given(
    family=st.sampled_from(EVERY),
    case=cases(),
    kind=st.sampled_from([*KINDS]),
    keep=SHARES | COUNTS,
    budgets=st.sampled_from(["per_image", "global"]),
    before=st.none() | SHARES,
    layer=st.integers(1, 3),
)
@torch.no_grad()
def test_what_stays_of_every_group(
    family: str, case: Case, kind: tuple[bool, str], keep: Any, budgets: Any, before: float | None, layer: int
) -> None:
    """Of pictures, tiles, frames and prompts, alone and behind another pruner, at the prompt and before a layer."""
    more = {"layer": layer} if kind[0] else {}
    keep = keep if before is None or isinstance(keep, float) else 1  # as many may not be there any more
    strategy = KINDS[kind](keep=keep, budget=budgets, seed=case.seed, **more)
    target, batch = model(family, "pruned"), case.batch(family)
    first = () if before is None else parse(f"random(keep={before}, seed={case.seed})")
    reports = []
    for spec in (first or "none", (*first, strategy)):
        with vtokens.attach(target, spec) as handle:
            target(**batch)
            reports.append(handle.report().samples)
    at = layer if kind[0] else 0
    there, left = (
        [
            (row, number, cell)
            for row, sample in enumerate(samples)
            for number, part in enumerate(sample.pictures)
            for cell in part.kept[at].tolist()
            if part.picture.view[cell] >= 0
        ]
        for samples in reports
    )
    assert {*left} == chosen(strategy, reports[1], there)
