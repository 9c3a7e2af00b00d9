"""`quota`: what each frame may keep by the formula, grids that hold it, and features resized as torch does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

import vtokens
from tests.engine.cases import model
from tests.families import build, image
from tests.limits import close
from tests.strategies.videos import SHAPES, Shape, batch, entered, seen, video, visuals
from vtokens.core.budget import budget
from vtokens.recipes import AnswerScorer, Quota, quota
from vtokens.recipes.shrunk import grid, quotas
from vtokens.strategies.registry import describe

CHANCES = st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=1, max_size=8)


def formula(chances: Sequence[float], total: int) -> list[float]:
    weights = [(100 * chance) ** 2 for chance in chances]
    return [total * weight / sum(weights) for weight in weights]


@given(CHANCES, st.integers(1, 400), st.integers(1, 60))
def test_quotas_are_the_papers(chances: list[float], total: int, most: int) -> None:
    """Where no frame would grow, floor(T w / sum); else whole frames, and the rest share what these leave by it."""
    found = quotas(chances, total, most)
    assert sum(found) <= total
    assert all(0 <= one <= most for one in found)
    left, rest = total, [at for at, one in enumerate(found) if one < most]
    left -= most * (len(found) - len(rest))
    own = [chances[at] for at in rest]
    if any(own) and any(found):
        exact = formula(own, left)
        if any(share >= 1 for share in exact) or len(rest) < len(found):
            for at, share in zip(rest, exact, strict=True):
                near = round(share)
                assert found[at] == (near if abs(share - near) < 1e-9 else math.floor(share))
                assert share < most or found[at] == most - 1


def test_quotas_at_the_ends() -> None:
    assert quotas([0.5] * 4, 64 * 4, 729) == [64] * 4
    assert quotas([0.1] * 3, 9, 9) == [3, 3, 3]  # which sums of floats would miss
    assert quotas([0.9, 0.3, 0.0], 100, 729) == [90, 10, 0]
    assert quotas([0.9, 0.3, 0.0], 100, 80) == [80, 20, 0]
    assert quotas([1.0, 0.0, 0.0], 100, 80) == [80, 10, 10]
    assert quotas([0.0] * 4, 8, 9) == [2] * 4
    assert quotas([0.2, 0.9, 0.9, 0.2, 0.2, 0.9], 2, 9) == [0, 1, 1, 0, 0, 0]


@given(st.integers(1, 27), st.integers(0, 800))
def test_grids_of_square_frames_are_the_papers(side: int, size: int) -> None:
    root = math.isqrt(size)
    rows = root + ((root + 1) * root <= size and size > 0)
    assert grid(size, side, side) == ((rows, root) if root < side else (side, side))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 150))
def test_grids_fit(height: int, width: int, size: int) -> None:
    rows, columns = grid(size, height, width)
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    assert rows * columns <= size
    if size >= height * width:
        assert (rows, columns) == (height, width)


def expected(x: Tensor, chances: Sequence[float], keep: float) -> tuple[list[int], Tensor]:
    """What stays of a video (T, h, w, D), and its states, in float64."""
    t, h, w, _ = x.shape
    stays, states = [], []
    for frame, size in enumerate(quotas(chances, budget(t * h * w, keep), h * w)):
        rows, columns = grid(size, h, w)
        if not size:
            continue
        small = interpolate(x[frame].double().permute(2, 0, 1)[None], (rows, columns), mode="bilinear")
        states.append(small[0].flatten(1).T)
        middle = [[int((i + 0.5) * full / new) for i in range(new)] for full, new in ((h, rows), (w, columns))]
        stays += [frame * h * w + y * w + x for y in middle[0] for x in middle[1]]
    return stays, torch.cat(states)


SIZE = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))


@given(st.lists(st.tuples(SIZE, st.booleans()), min_size=1, max_size=3), st.floats(0.05, 1.0), st.data())
def test_frames_are_resized_as_torch_does(shapes: list[tuple[Shape, bool]], keep: float, data: st.DataObject) -> None:
    """Videos of any size in a batch, some beside an image, which stays as it is."""
    rows, chances = [], []
    for n, (shape, also) in enumerate(shapes):
        rows.append([("video", video(shape, n)), *([("image", video((1, 2, 2), 50 + n))] if also else [])])
        chances.append(tuple(data.draw(st.lists(st.floats(0, 1), min_size=shape[0], max_size=shape[0]))))
    view = visuals(rows)
    found = Quota(keep, chances=tuple(chances)).at_prompt(view)
    assert found is not None
    assert found.into is not None
    assert found.weights is not None
    assert found.counts == tuple((found.keep & view.valid).sum(1).tolist())
    images = [x for row in rows for kind, x in row if kind == "image"]
    for group in range(len(found.counts)):
        stays = found.keep[group].nonzero().flatten()
        sums = torch.zeros_like(view.tokens[group]).double()
        for into, weight in zip(found.into[group].T, found.weights[group].T, strict=True):
            real = view.valid[group].double() * weight.double()
            sums.index_add_(0, into, view.tokens[group].double() * real[:, None])
        if group < len(images):
            assert sums[stays].equal(images[group].flatten(0, 2).double())
            continue
        number = group - len(images)
        own, states = expected(rows[number][0][1], chances[number], keep)
        assert stays.tolist() == own
        close(sums[stays].float(), states.float(), terms=4, size=view.tokens)


@torch.no_grad()
@settings(max_examples=5)
@given(st.sampled_from(["qwen2_5_vl", "qwen3_vl"]), st.sampled_from([0.3, 0.6, 1.0]), st.integers(0, 99))
def test_states_in_genuine_models(family: str, keep: float, seed: int) -> None:
    draw = torch.rand(3, 5, generator=torch.Generator().manual_seed(seed)).tolist()
    chances = tuple(tuple(row[: shape[0]]) for row, shape in zip(draw, SHAPES, strict=True))
    whole = batch(family, SHAPES)
    found = entered(family, whole, Quota(keep, chances=chances))
    for (tokens, _), shape, own, (stays, states) in zip(seen(family, whole), SHAPES, chances, found, strict=True):
        right, resized = expected(tokens.view(*shape, -1), own, keep)
        assert stays == right
        close(states, resized.float(), terms=4, size=tokens)


@torch.no_grad()
def test_all_alike_and_all_kept_is_the_model_untouched() -> None:
    target, whole = model("qwen2_5_vl", "pruned"), batch("qwen2_5_vl", SHAPES[:1])
    plain = target(**whole).logits
    with vtokens.attach(target, Quota(1.0, chances=(0.1, 0.9, 0.0, 0.3, 0.2))):
        assert target(**whole).logits.equal(plain)


@torch.no_grad()
def test_a_spatial_pruner_follows() -> None:
    """Of what is left of each frame; quota itself cannot come second."""
    target, whole, first = (
        model("qwen2_5_vl", "pruned"),
        batch("qwen2_5_vl", [(4, 4, 4)]),
        Quota(0.5, chances=(0.9, 0.9, 0.0, 0.4)),
    )
    with vtokens.attach(target, [first, *vtokens.strategies.parse("todre(keep=0.2, of=original)")]) as handle:
        target(**whole)
        (part,) = handle.report().samples[0].pictures
    assert len(part.kept[2]) == budget(64, 0.2)
    assert not ((part.kept[2] >= 32) & (part.kept[2] < 48)).any()
    with (
        vtokens.attach(target, [*vtokens.strategies.parse("todre(keep=0.5)"), first]),
        pytest.raises(ValueError, match="it comes before whatever else drops"),
    ):
        target(**whole)


@torch.no_grad()
def test_beams_and_answers_see_what_a_pass_sees() -> None:
    """Plain chances are those of each beam; a tuple for each video has to count beams."""
    target, whole, own = model("qwen2_5_vl", "pruned"), batch("qwen2_5_vl", [(4, 3, 4)]), (0.9, 0.9, 0.0, 0.4)
    kept = [entered("qwen2_5_vl", whole, Quota(0.5, chances=chances))[0][0] for chances in (own, (own,))]
    assert kept[0] == kept[1]
    for chances in (own, (own, own)):
        with vtokens.attach(target, Quota(0.5, chances=chances)) as handle:
            target.generate(**whole, max_new_tokens=2, num_beams=2, do_sample=False)
            assert [one.pictures[0].kept[-1].tolist() for one in handle.report().samples] == [kept[0]] * 2


@pytest.mark.parametrize("family", ["llava", "smolvlm"])
def test_a_family_without_videos_refuses_it(family: str) -> None:
    with pytest.raises(ValueError, match="video"):
        vtokens.attach(build(family)[0], Quota(chances=(0.5,)))


@torch.no_grad()
@pytest.mark.parametrize(
    ("chances", "says"),
    [
        ((0.5,) * 10, r"10 chances for a video of 5 frames.*quota\(together=2\)"),
        ((0.5,) * 3, "3 chances for a video of 5 frames"),
        (((0.5,) * 5, (0.5,) * 5), "chances are of 2 videos, and the pass has 1"),
    ],
)
def test_chances_that_do_not_match_are_refused(chances: tuple[float, ...], says: str) -> None:
    target = model("qwen2_5_vl", "pruned")
    with vtokens.attach(target, Quota(chances=chances)), pytest.raises(ValueError, match=says):
        target(**batch("qwen2_5_vl", SHAPES[:1]))


@pytest.mark.parametrize("chances", [(), (1.5,), (-0.1, 0.2), ((0.5,), ())])
def test_what_is_no_chance_is_refused(chances: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="one from 0 to 1 for each frame is"):
        Quota(chances=chances)


def test_the_recipe_takes_the_best_of_frames_that_make_one() -> None:
    frames = [Image.new("L", (4, 4), n) for n in (10, 200, 30, 40, 50)]

    def bright(shown: Sequence[Image.Image], query: str) -> list[float]:
        return [float(one.getpixel((0, 0))) / float(query) for one in shown]  # type: ignore[arg-type]

    assert quota(frames, "250", bright, 0.4, together=2) == Quota(0.4, chances=(0.8, 0.16, 0.2))
    with pytest.raises(ValueError, match="a confidence from 0 to 1 for each"):
        quota(frames, "100", bright)
    with pytest.raises(ValueError, match="together=0 is out of range"):
        quota(frames, "250", bright, together=0)


@torch.no_grad()
def test_a_models_own_answers_are_chances() -> None:
    target, processor = build("llava")
    frames = [image(60, 60, seed=n) for n in range(3)]
    scorer = AnswerScorer(target, processor, least=0)
    assert quota(frames, "Is there a dog?", scorer).chances == tuple(scorer(frames, "Is there a dog?"))


@pytest.mark.parametrize("name", ["quota", "aks", "bolt", "date", "tstar", "zoom"])
def test_who_asks_for_a_recipe_by_name_is_told(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is a recipe"):
        describe(name)
    with pytest.raises(ValueError, match=f"'{name}' is a recipe"):
        vtokens.strategies.parse(f"{name}(keep=0.5)")
