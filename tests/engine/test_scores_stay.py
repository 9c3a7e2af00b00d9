"""A picture's scores are its own, drawn: neither another picture nor padding moves them, in any family."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.cases import BLOCKS, SIZES, TEXTS, examples, model
from tests.families import ALL, BLIND, STATEFUL, image, inputs
from tests.limits import BLOCKS as CHAIN
from tests.limits import WIDTH, rounding
from tests.strategies.helpers import probe
from vtokens.strategies import Saliency

WORDS = [text for text in TEXTS if text and "<image>" not in text]


def scores(
    family: str, words: list[str], groups: list[list[Any]], side: Any, how: tuple[str, Saliency]
) -> list[Tensor]:
    """The scores of each picture of a batch, in their order; a family may make several pictures of an image."""
    batch = dict(inputs(family, words, groups, side))
    return probe(model(family, "pruned", how[0]), batch, how[1])[how[1]]


def apart(mine: Tensor, theirs: Tensor) -> bool:
    """Whether rounding cannot be what two pictures' scores differ by."""
    return mine.shape != theirs.shape or float((mine - theirs).abs().max()) > rounding(theirs, WIDTH, CHAIN)


@pytest.mark.fuzz
@pytest.mark.parametrize("family", [family for family in (*ALL, *STATEFUL) if family not in BLIND])
def test_neither_other_pictures_nor_padding_move_scores(family: str) -> None:
    """Three images in two rows: each row scores as alone, and another image in one place moves what is there."""

    @settings(max_examples=min(examples(family), 5) if settings.default.derandomize else examples(family))
    @given(
        sizes=st.tuples(*[st.sampled_from(SIZES)] * 3),
        words=st.tuples(*[st.sampled_from(WORDS)] * 2),
        side=st.sampled_from(["left", "right"]),
        attention=st.sampled_from(["sdpa", "eager"]),
        blocks=st.one_of(st.none(), BLOCKS),
        seed=st.integers(0, 99),
        place=st.integers(0, 2),
    )
    @torch.no_grad()
    def holds(
        sizes: Any, words: Any, side: str, attention: str, blocks: tuple[int, ...] | None, seed: int, place: int
    ) -> None:
        how = (attention, Saliency(blocks))
        images = [image(*size, seed=seed + number) for number, size in enumerate(sizes)]
        rows = [images[:2], images[2:]]
        whole = scores(family, [*words], rows, side, how)
        alone = [scores(family, [text], [row], side, how) for text, row in zip(words, rows, strict=True)]
        expected = [part for row in alone for part in row]
        assert len(whole) == len(expected)
        assert not any(map(apart, whole, expected))
        # Two images of one size are made into as many pictures each.
        first = len(scores(family, ["x"], [[images[0], images[0]]], side, how)) // 2
        bounds = [0, first, len(alone[0]), len(whole)]
        images[place] = image(*sizes[place], seed=seed + 1000)
        moved = scores(family, [*words], [images[:2], images[2:]], side, how)
        changed = [apart(*pair) for pair in zip(moved, whole, strict=True)]
        assert not any(changed[: bounds[place]] + changed[bounds[place + 1] :])
        assert any(changed[bounds[place] : bounds[place + 1]])

    if settings.default.derandomize:  # or every family would draw the same cases
        holds = hypothesis.seed([*ALL, *STATEFUL].index(family))(holds)
    holds()
