"""`evs`: what changed since the frame before, the first frame whole, counted by plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.strategies.videos import (
    FAMILIES,
    SHAPES,
    batch,
    check_batch_equals_alone,
    check_beside_images,
    check_pruned_equals_masked,
    kept,
    video,
)
from vtokens.core.budget import budget
from vtokens.strategies import parse
from vtokens.strategies.prune.evs import Evs

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3))
KEEPS = st.floats(0.02, 0.99)


def expected(x: Tensor, keep: float | int) -> list[int]:
    """The tokens that stay of a video (T, h, w, D), one by one, in float64."""
    t, h, w, _ = x.shape
    flat = x.double().reshape(t, h * w, -1)
    score = {}
    for frame in range(t):
        for place in range(h * w):
            one = flat[frame, place]
            last = flat[frame - 1, place]
            change = 255.0 if frame == 0 else 1 - float(one @ last / one.norm() / last.norm())
            score[frame * h * w + place] = 0.0 if torch.equal(one, last) and frame else change
    count = max(h * w, budget(t * h * w, keep))
    return sorted(sorted(score, key=lambda token: (-score[token], token))[:count])


@given(st.lists(st.tuples(SIZES, st.booleans()), min_size=1, max_size=3), KEEPS, st.integers(0, 99), st.floats(0, 1))
def test_as_counted_by_hand(
    shapes: list[tuple[tuple[int, int, int], bool]], keep: float, seed: int, still: float
) -> None:
    """Prompts of videos of any size, some beside an image, which stays whole; some of what moves stands still."""
    check_beside_images(Evs(keep), shapes, lambda one: expected(one, keep), seed, still)


@pytest.mark.parametrize(
    ("keep", "count"), [(1.0, 392), (0.5, 196), (0.25, 98), (0.1, 49), (0.05, 49), (60, 60), (3, 49)]
)
def test_counts_are_those_of_the_server(keep: float, count: int) -> None:
    """Of 8 frames of 7 x 7, never less than a frame; of a still video these are its first tokens."""
    still = video((1, 7, 7), 0).expand(8, 7, 7, -1).contiguous()
    assert kept(Evs(keep), [[("video", still)]]) == [list(range(count))]


def test_a_still_video_keeps_its_first_frame_in_any_batch() -> None:
    """Rounding of equal tokens is no change: alone, and beside a video that moves."""
    still = video((1, 3, 3), 1).expand(6, 3, 3, -1).contiguous()
    noise = 1 + 1e-7 * torch.randn(still.shape, generator=torch.Generator().manual_seed(0))
    for rows in ([[("video", still * noise)]], [[("video", still * noise)], [("video", video((9, 4, 2), 2))]]):
        assert kept(Evs(0.1), rows)[0] == list(range(9))
        assert kept(Evs(0.3), rows)[0] == list(range(16))


def test_a_place_that_lost_its_last_token_counts_as_changed() -> None:
    """Behind a pruner within frames: what has nothing to be compared with stays, before what changed."""
    target, given = model("qwen2_vl", "pruned"), batch("qwen2_vl", [(4, 2, 3)])
    with torch.no_grad(), vtokens.attach(target, "random(keep=0.5)+evs(keep=0.9)") as handle:
        target(**given)
        after = handle.report().samples[0].pictures[0].kept[0].tolist()
    with torch.no_grad(), vtokens.attach(target, "random(keep=0.5)") as handle:
        target(**given)
        before = handle.report().samples[0].pictures[0].kept[0].tolist()
    new = [token for token in before if token - 6 not in before]
    assert set(new) <= set(after) < set(before)
    assert len(after) == budget(12, 0.9)


@pytest.mark.parametrize("family", FAMILIES)
def test_on_genuine_models(family: str) -> None:
    report = check_pruned_equals_masked(family, "evs(keep=0.4)")
    for sample in report.samples:
        (part,) = sample.pictures
        t, h, w = part.picture.grids[0]
        assert len(part.kept[0]) == max(h * w, budget(t * h * w, 0.4))
        assert part.kept[0][: h * w].tolist() == list(range(h * w))
    check_batch_equals_alone(family, "evs(keep=0.4)")


def test_features_of_a_genuine_model_are_what_is_compared() -> None:
    target, given = model("qwen2_5_vl", "pruned"), batch("qwen2_5_vl", SHAPES)
    with torch.no_grad(), vtokens.attach(target, "evs(keep=0.4)") as handle:
        target(**given)
        found = [sample.pictures[0].kept[0].tolist() for sample in handle.report().samples]
        features = target.model.get_video_features(
            given["pixel_values_videos"], given["video_grid_thw"], return_dict=True
        ).pooler_output
    assert found == [expected(part.view(*shape, -1), 0.4) for part, shape in zip(features, SHAPES, strict=True)]


def test_written_both_ways() -> None:
    assert parse("evs(keep=0.1, positions=compact)") == (Evs(0.1, positions="compact"),)
    with pytest.raises(ValueError, match=r"keep=0.0 is out of range"):
        parse("evs(keep=0.0)")
