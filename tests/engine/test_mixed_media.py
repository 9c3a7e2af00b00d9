"""Images and videos in any order, drawn: pruned equals masked, a batch equals its rows alone, budgets are exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vtokens
from tests.engine.cases import COUNTS, SHARES, model
from tests.engine.media import APART, FRAMES, POOLED, Part, clip, media
from tests.engine.test_budgets_drawn import KINDS, Token, chosen
from tests.engine.test_pruned_equals_masked import check_forward
from tests.families import image
from tests.limits import close_pass
from vtokens.core.budget import budget

SIZES = ((100, 60), (60, 112), (84, 84))
WORDS = ("", "Look: ", " and ", "Is it red? ")


@dataclass(frozen=True)
class Shown:
    """An image, or a video of some frames."""

    size: tuple[int, int]
    frames: int = 0

    def part(self, seed: int) -> Part:
        return image(*self.size, seed=seed) if not self.frames else clip(self.frames, *self.size, seed=seed)


Row = tuple[str | Shown, ...]


@st.composite
def rows(draw: st.DrawFn, family: str) -> tuple[Row, ...]:
    """One to three prompts, at least one of which shows something."""
    kinds = [("image", "video")] if family not in APART else [("image",), ("video",)]  # one kind in a call of a GLM
    allowed, frames = draw(st.sampled_from(kinds)), draw(st.integers(1, 3))
    made = []
    for _ in range(draw(st.integers(1, 3))):
        row: list[str | Shown] = []
        for kind in draw(st.lists(st.sampled_from(allowed), max_size=3)):
            count = 0 if kind == "image" else frames if family in POOLED else draw(st.integers(1, 3))
            row += [draw(st.sampled_from(WORDS)), Shown(draw(st.sampled_from(SIZES)), count)]
        made.append((*row, "what?"))
    hypothesis.assume(any(isinstance(part, Shown) for row in made for part in row))
    return tuple(made)


def batch_of(family: str, asked: Sequence[Row], side: str, first: int = 0) -> dict[str, Any]:
    """What the family's processor makes of the rows, the first of which is number `first` of its batch."""
    return media(
        family,
        [
            [part if isinstance(part, str) else part.part(10 * row + place) for place, part in enumerate(parts)]
            for row, parts in enumerate(asked, first)
        ],
        side,
    )


def cells(sample: Any) -> list[list[list[int]]]:
    """What is left of each picture, layer by layer."""
    return [[layer.tolist() for layer in part.kept] for part in sample.pictures]


@pytest.mark.fuzz
@pytest.mark.parametrize("family", FRAMES)
def test_pruned_equals_masked_and_a_batch_its_rows(family: str) -> None:
    """Scores of the tower and of the decoder; every picture keeps what its own number of tokens says."""

    @settings(max_examples=-(-settings.default.max_examples // (2 * len(FRAMES))))
    @given(
        rows(family),
        st.sampled_from(["left", "right"]),
        st.sampled_from(["cls(keep={})", "fastv(keep={}, layer=2)", "cls(keep={})+fastv(keep=0.6, layer=1)"]),
        SHARES | st.integers(1, 3),
    )
    @torch.no_grad()
    def holds(asked: tuple[Row, ...], side: str, spec: str, keep: float | int) -> None:
        spec, target = spec.format(keep), model(family, "pruned")
        batch = batch_of(family, asked, side)
        report = check_forward(batch, target, model(family, "plain", "eager"), spec)
        kinds = [sorted("video" if s.frames else "image" for s in row if isinstance(s, Shown)) for row in asked]
        assert [[part.picture.modality for part in sample.pictures] for sample in report.samples] == kinds
        at = 2 if spec.startswith("fastv") else 0
        for sample in report.samples:
            for part in sample.pictures:
                assert len(part.kept[at]) == budget(part.picture.tokens, keep)
        with vtokens.attach(target, spec) as handle:
            together = target(**batch).logits
            for number, row in enumerate(asked):
                if not kinds[number]:
                    continue
                single = batch_of(family, [row], side, number)
                alone = target(**single).logits[0]
                assert cells(handle.report().samples[0]) == cells(report.samples[number])
                close_pass(together[number][batch["attention_mask"][number].bool()][-1], alone[-1])

    if settings.default.derandomize:
        holds = hypothesis.seed(FRAMES.index(family))(holds)
    holds()


@pytest.mark.fuzz
@settings(max_examples=-(-settings.default.max_examples // 8))
@given(st.data(), st.sampled_from(FRAMES), st.sampled_from([*KINDS]), SHARES | COUNTS, st.booleans())
@torch.no_grad()
def test_budgets(data: st.DataObject, family: str, kind: tuple[bool, str], keep: float | int, overall: bool) -> None:
    """By picture, view, frame and prompt, for each picture or for all of a prompt together."""
    asked = data.draw(rows(family))
    strategy = KINDS[kind](keep=keep, budget="global" if overall else "per_image", seed=len(asked))
    batch, target, at = batch_of(family, asked, "left"), model(family, "pruned"), int(kind[0])
    with vtokens.attach(target, strategy) as handle:
        target(**batch)
        samples = handle.report().samples
    there, left = [], []
    for row, sample in enumerate(samples):
        for number, part in enumerate(sample.pictures):
            there += [(row, number, cell) for cell, view in enumerate(part.picture.view.tolist()) if view >= 0]
            left += [(row, number, cell) for cell in part.kept[at].tolist() if part.picture.view[cell] >= 0]
    assert {*left} == chosen(strategy, samples, sorted(there, key=lambda token: (token[0], rank(asked, token), token)))


def rank(asked: Sequence[Row], token: Token) -> int:
    """Which one the picture of a token is in its prompt; reports have images before videos."""
    places = [place for place, part in enumerate(asked[token[0]]) if isinstance(part, Shown)]
    row = asked[token[0]]
    return sorted(places, key=lambda place: bool(getattr(row[place], "frames", 0)))[token[1]]
