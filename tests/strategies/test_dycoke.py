"""`dycoke`: every fourth frame whole, of the others what is least like an earlier one, counted by plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.strategies.test_evs import KEEPS
from tests.strategies.videos import (
    FAMILIES,
    Shape,
    check_batch_equals_alone,
    check_beside_images,
    check_pruned_equals_masked,
    kept,
    video,
)
from vtokens.core.budget import budget
from vtokens.strategies.prune.dycoke import DyCoke

SIZES = st.tuples(st.integers(1, 11), st.integers(1, 3), st.integers(1, 3))


def expected(x: Tensor, keep: float) -> list[int]:
    """The tokens that stay of a video (T, h, w, D), in float64: the whole frames, then one of each other, and again."""
    t, h, w, _ = x.shape
    places, flat = h * w, x.double().reshape(t, h * w, -1)
    stays = {(frame, n) for frame in range(0, t, 4) for n in range(places)}
    rows = []
    for frame in (n for n in range(t) if n % 4):
        other = {1: frame - 1, 2: frame - 2, 3: frame - 1}[frame % 4]
        alike = [
            1.0 if torch.equal(a, b) else float(torch.cosine_similarity(a, b, dim=0))
            for a, b in zip(flat[frame], flat[other], strict=True)
        ]
        rows.append([(frame, n) for n in sorted(range(places), key=lambda n: alike[n])])
    turns = [row[turn] for turn in range(places) for row in rows]
    count = max(len(stays), budget(t * places, keep))
    return sorted(frame * places + n for frame, n in [*stays, *turns[: count - len(stays)]])


@given(st.lists(st.tuples(SIZES, st.booleans()), min_size=1, max_size=3), KEEPS, st.integers(0, 99), st.floats(0, 1))
def test_as_counted_by_hand(shapes: list[tuple[Shape, bool]], keep: float, seed: int, still: float) -> None:
    """Prompts of videos of any length, some beside an image, which stays whole; some of what moves stands still."""
    check_beside_images(DyCoke(keep), shapes, lambda one: expected(one, keep), seed, still)


def test_the_default_is_the_papers_share() -> None:
    """Of 8 frames of 10 x 10 tokens, 30 of each but the first of every four; the least of a video are those two."""
    x = video((8, 10, 10), 0)
    (found,) = kept(DyCoke(), [[("video", x)]])
    assert [sum(token // 100 == frame for token in found) for frame in range(8)] == [100, 30, 30, 30] * 2
    assert kept(DyCoke(0.01), [[("video", x)]]) == [[*range(100), *range(400, 500)]]


@pytest.mark.parametrize("family", FAMILIES)
def test_on_genuine_models(family: str) -> None:
    check_pruned_equals_masked(family, "dycoke(keep=0.6)")
    check_batch_equals_alone(family, "dycoke(keep=0.6)")
