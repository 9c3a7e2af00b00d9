"""Groups of visual tokens (pictures, tiles, frames, prompts), and how budgets are shared among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.families import image, inputs
from tests.strategies import videos
from tests.strategies.helpers import kept, pair, three_rows
from vtokens.core.budget import budget, shares
from vtokens.core.layout import Grouping, Layout
from vtokens.core.picture import Picture
from vtokens.engine.state.reduce import reduce
from vtokens.strategies import Facts, Needs, ScorePruner, Selection, Strategy, Visuals, parse

SHAPES = st.lists(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3),
    min_size=1, max_size=2,
)  # fmt: skip


def layout(rows: list[list[tuple[int, int, int]]], newline: bool) -> Layout:
    """A picture a row, of views of these (t, h, w), behind a token of text and left padding."""
    pictures = [Picture.of(views, [newline] * len(views)) for views in rows]
    width = 1 + max(map(len, pictures))
    mask, valid = (torch.zeros(len(rows), width, dtype=torch.bool) for _ in range(2))
    for row, picture in enumerate(pictures):
        mask[row, width - len(picture) :] = True
        valid[row, width - len(picture) - 1 :] = True
    return Layout.build({"image": mask}, {"image": pictures}, valid)


def members(of: Layout, grouping: Grouping) -> list[list[int]]:
    """The flat positions of each group, found position by position."""
    found: dict[Any, list[int]] = {}
    for number, picture in enumerate(of.pictures):  # groups of which nothing is left are there too
        for view, t in zip(picture.view.tolist(), picture.t.tolist(), strict=True):
            if view >= 0:
                found[(number, view) if grouping == "view" else (number, view, t)] = []
    for flat, visual in enumerate(of.visual.flatten().tolist()):
        if visual:
            number, cell = int(of.image.flatten()[flat]), int(of.cell.flatten()[flat])
            picture = of.pictures[number]
            key = (number, int(picture.view[cell]), int(picture.t[cell]))
            found[key[:2] if grouping == "view" else key].append(flat)
    return list(found.values())


@given(SHAPES, st.booleans(), st.sampled_from(["view", "frame"]), st.floats(0.05, 1.0), st.data())
def test_views_and_frames_are_groups(
    rows: list[list[tuple[int, int, int]]], newline: bool, grouping: Grouping, share: float, data: st.DataObject
) -> None:
    """Whole pictures, and what is left of them; a picture's budget is shared out whole, in proportion."""
    whole = layout(rows, newline)
    stay = whole.visual & (
        torch.rand(whole.visual.shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))) < 0.6
    )
    reduced = reduce(whole, stay, whole.count(stay), None)
    for of in (whole, *([] if reduced is None else [reduced[0].layout])):
        groups, expected = of.groups(grouping), members(of, grouping)
        assert [groups.index[g][groups.valid[g]].tolist() for g in range(len(groups.counts))] == expected
        assert groups.counts == tuple(map(len, expected))
        view = Visuals(torch.zeros(*of.visual.shape, 2), of, grouping, cast(Any, None))
        for counted in ("left", "original"):
            budgets = view.budgets(share, of=cast(Any, counted))
            for number, picture in enumerate(of.pictures):
                own = [b for b, owner in zip(budgets, of.parts(grouping).owners, strict=True) if owner == number]
                size = of.counts[number] if counted == "left" else picture.tokens
                assert sum(own) == min(of.counts[number], budget(size, share))
            assert all(0 <= b <= count for b, count in zip(budgets, groups.counts, strict=True))
        assert of.per_picture(grouping, groups.counts) == of.counts


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any), st.data())
def test_shares_are_whole_and_in_proportion(sizes: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(sizes)))
    found = shares(total, sizes)
    assert sum(found) == total
    for part, size in zip(found, sizes, strict=True):
        assert part <= size
        assert abs(part - total * size / sum(sizes)) < 1


@dataclass(frozen=True)
class Staged(Strategy):
    """Keeps the first tokens of what there was, fewer before each of its layers."""

    name: ClassVar[str] = "staged"
    shares: tuple[float, ...] = (0.5, 0.25, 0.125)

    def needs(self, facts: Facts) -> Needs:
        return Needs(layer=range(1, 1 + len(self.shares)))

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        return visuals.top(torch.zeros(visuals.valid.shape), self.shares[index - 1], of="original")


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_stages_name_shares_of_the_whole(family: str) -> None:
    model, batch = pair(family)[0], three_rows(family)
    sizes = [len(picture) for picture in kept(model, batch, Staged(), layer=0)]
    for layer, share in enumerate(Staged().shares, 1):
        assert [len(picture) for picture in kept(model, batch, Staged(), layer=layer)] == [
            budget(n, share) for n in sizes
        ]


@dataclass(frozen=True)
class ByView(ScorePruner):
    """Keeps the last tokens of every tile."""

    name: ClassVar[str] = "by_view"
    grouping: ClassVar[Grouping] = "view"

    def score(self, visuals: Visuals) -> Tensor:
        return torch.arange(visuals.valid.shape[1]).float().expand(visuals.valid.shape)


@torch.no_grad()
def test_tiles_are_pruned_each_by_itself() -> None:
    """Of an AnyRes picture its thumbnail and its tiled view, beside other prompts."""
    model, batch = pair("llava_next")[0], three_rows("llava_next")
    with vtokens.attach(model, ByView(keep=0.25)) as handle:
        model(**batch)
        pictures = [part for sample in handle.report().samples for part in sample.pictures]
    assert any(len(part.picture.grids) > 1 for part in pictures)
    for part in pictures:
        view = part.picture.view
        sizes = [int((view == number).sum()) for number in range(len(part.picture.grids))]
        split = shares(budget(sum(sizes), 0.25), sizes)
        expected = [
            np.flatnonzero(view == number)[size - n :]
            for number, (size, n) in enumerate(zip(sizes, split, strict=True))
        ]
        assert part.kept[0].tolist() == np.concatenate(expected).tolist()


@torch.no_grad()
def test_a_global_budget_ranks_all_pictures_of_a_prompt() -> None:
    """As FastV does that pools over the sample; of saliency as sorting says."""

    model, processor = pair("llava")
    groups = [[image(60, 60, seed=n) for n in (1, 2)], [image(90, 60, seed=3)]]
    batch = inputs(processor, ["What are these?", "And this?"], groups)
    pooled, ranked = (
        kept(model, batch, spec, layer=2)
        for spec in ("fastv(keep=0.3, layer=2, pool=sample)", "fastv(keep=0.3, layer=2, budget=global)")
    )
    assert pooled == ranked

    @dataclass(frozen=True)
    class Noted(ScorePruner):
        """Longest features first."""

        name: ClassVar[str] = "noted"

        def score(self, visuals: Visuals) -> Tensor:
            return visuals.tokens.norm(dim=-1)

    got = kept(model, batch, Noted(keep=0.3, budget="global"))
    features = model.model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output
    norms = [
        (float(norm), picture, slot)
        for picture, part in enumerate(features)
        for slot, norm in enumerate(part.norm(dim=-1))
    ]
    first, second = (sorted(n for n in norms if n[1] in own)[::-1] for own in ((0, 1), (2,)))
    best = {n[1:] for n in (*first[: 2 * budget(16, 0.3)], *second[: budget(16, 0.3)])}
    assert {(picture, slot) for picture, slots in enumerate(got) for slot in slots} == best
    assert len(got[0]) != len(got[1])


@torch.no_grad()
@pytest.mark.parametrize("spec", ["cls(keep=0.3, budget=per_frame)", "fastv(keep=0.3, layer=2, budget=per_frame)"])
def test_each_frame_of_a_video_gets_its_part(spec: str) -> None:
    """Of a video's budget, in proportion; inside a frame those with the highest scores, before and in the decoder."""
    whole = videos.batch("qwen2_5_vl", videos.SHAPES)
    found = kept(pair("qwen2_5_vl")[0], whole, spec, layer=2)
    for shape, own in zip(videos.SHAPES, found, strict=True):
        t, places = shape[0], shape[1] * shape[2]
        assert [sum(n // places == frame for n in own) for frame in range(t)] == shares(
            budget(t * places, 0.3), [places] * t
        )
    if spec.startswith("cls"):
        for shape, own, (_, salience) in zip(videos.SHAPES, found, videos.seen("qwen2_5_vl", whole), strict=True):
            for frame, scores in enumerate(salience.view(shape[0], -1)):
                best = scores.topk(sum(n // len(scores) == frame for n in own)).indices + frame * len(scores)
                assert sorted(best.tolist()) == [n for n in own if n // len(scores) == frame]


def test_frames_and_a_pooled_prompt_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="leave one out"):
        parse("fastv(pool=sample, budget=per_frame)")
