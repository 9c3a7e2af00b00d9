"""Heat maps put attention where its cell is, in every kind of grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vtokens
from tests.families import EVERY, build
from tests.filter.traced import ask, mention
from vtokens import scenes
from vtokens.filter.heatmap import density, heat, heatmap
from vtokens.filter.trace.passes import generate, score
from vtokens.filter.trace.trace import Parts, Trace

LOOK = Parts(layers=frozenset({1, 2}))


def traced(family: str) -> tuple[Any, list[Trace]]:
    model, processor = build(family)
    images, prompts = ask(processor)
    return images, score(model, processor, images, prompts, [[20, 31, 42]] * 3, LOOK)


@pytest.mark.parametrize("family", EVERY)
def test_a_spike_lands_in_its_cell(family: str) -> None:
    """All of a row's attention on one visual token: that cell of that view of that picture, and no other."""
    _, traces = traced(family)
    rng = np.random.default_rng(0)
    for trace in traces:
        assert sum(picture.tokens for picture in trace.pictures) == trace.gaze.shape[1]
        for place in rng.choice(trace.gaze.shape[1], size=4, replace=False):
            trace.gaze = torch.zeros_like(trace.gaze)
            trace.gaze[1, place] = 0.5
            number, cell = int(trace.picture[place]), int(trace.cell[place])
            before = sum(picture.tokens for picture in trace.pictures[:number])
            picture = trace.pictures[number]
            assert np.flatnonzero(picture.view >= 0)[place - before] == cell
            for other in range(len(trace.pictures)):
                for view, grid in enumerate(heat(trace, mention((1,)), other, relative=False)):
                    expected = np.zeros(picture.grids[view] if other == number else grid.shape)
                    if other == number and view == picture.view[cell]:
                        expected[picture.t[cell], picture.y[cell], picture.x[cell]] = 0.5
                    np.testing.assert_array_equal(grid, expected)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl"])
def test_what_all_rows_attend_to_is_taken_away(family: str) -> None:
    _, (trace, *_) = traced(family)
    gaze = torch.rand_like(trace.gaze)
    gaze[:, 0] = 9.0  # a sink
    trace.gaze = gaze
    flat = torch.from_numpy(np.concatenate([grid.flatten() for grid in heat(trace, mention((0, 2)))]))
    expected = (gaze[[0, 2]].mean(0) - gaze[1]).clamp(min=0)
    picture = trace.pictures[0]
    places = [np.flatnonzero((picture.view == view)[picture.view >= 0]) for view in range(len(picture.grids))]
    torch.testing.assert_close(flat.float(), expected[np.concatenate(places)])
    assert flat[0] == 0
    whole = heat(trace, mention((0, 1, 2)))  # nothing to compare it with
    assert whole[0].max() == pytest.approx(float(gaze.mean(0)[places[0]].max()))


def test_views_are_laid_over_each_other_by_what_falls_on_a_pixel() -> None:
    """Half of the attention on the left half of a 2 x 2 thumbnail weighs as much as on 4 x 4 fine cells."""
    coarse, fine = np.zeros((1, 2, 2)), np.zeros((1, 4, 4))
    coarse[0, :, 0], fine[0, :, :2] = 0.25, 0.0625
    pixels = np.zeros((8, 8, 3))
    np.testing.assert_allclose(density([coarse], pixels), density([fine], pixels))
    fine[0, 0, 3] = 0.5
    laid = density([coarse, fine], pixels)
    assert laid[:2, 6:].min() == 1
    # On each pixel of the left: 0.25 of a quarter of the picture, and 0.0625 of a sixteenth.
    assert laid[0, 0] == pytest.approx((0.25 * 4 + 0.0625 * 16) / (0.5 * 16))
    assert (density([np.zeros((1, 2, 2))], pixels) == 0).all()


def test_the_embedded_model_looks_at_what_it_names() -> None:
    """Objects it names rightly lie where its heat map is hottest, far more often than one in sixteen."""
    model, processor = vtokens.load("scenes-llava", strategy="none")
    vtokens.detach(model)
    asked = scenes.examples("test", n=24, kinds=["caption"])
    traces = generate(model, processor, [[e.image] for e in asked], [e.question for e in asked], LOOK)
    hits = []
    for example, trace in zip(asked, traces, strict=True):
        words = processor.decode(trace.ids).split()
        for thing in example.scene.visible:
            colour, shape = thing.name.split()
            at = [k for k in range(len(words) - 1) if words[k : k + 2] == [colour, shape]]
            if at:
                [grid] = heat(trace, mention((at[0], at[0] + 1)))
                y, x = np.unravel_index(grid[0].argmax(), grid[0].shape)
                hits.append((y * 4 // 12, x * 4 // 12) == (thing.row, thing.column))
    assert len(hits) > 40
    assert np.mean(hits) > 0.5


def test_pictures_and_refusals() -> None:
    images, traces = traced("llava_next")
    one, two = heatmap(traces[0], mention((1,)), images[0]), heatmap(traces[1], mention((1,)), images[1], scale=2)
    assert one.mode == "RGB"
    assert one.size == tuple(4 * side for side in images[0][0].size)
    assert two.size == (2 * (60 + 84) + 8, 2 * 130)
    assert np.asarray(one).std() > 0
    plain = np.asarray(images[1][0].resize((120, 260), Image.Resampling.NEAREST), dtype=float)
    assert np.abs(np.asarray(two, dtype=float)[:, :120] - plain).max() > 0
    for arguments, message in (
        ((traces[1], mention((1,)), images[0]), "1 images for a prompt with 2"),
        ((traces[0], mention(()), images[0]), "has no tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            heatmap(*arguments)
    with pytest.raises(ValueError, match="picture 1 does not exist"):
        heat(traces[0], mention((1,)), 1)
    model, processor = build("llava")
    [bare] = score(model, processor, *ask(processor, 1), [[20]])
    with pytest.raises(ValueError, match="holds no attention"):
        heat(bare, mention((0,)))


@pytest.mark.parametrize("family", ["internvl", "smolvlm"])
def test_tiles_are_not_laid_over_the_whole_image(family: str) -> None:
    """Each of them shows a part of it, and nobody knows which."""
    images, traces = traced(family)
    assert len(traces[0].pictures[0].grids) > 1
    with pytest.raises(ValueError, match=r"cut this image into \d tiles.*crop_to_patches=False"):
        heatmap(traces[0], mention((1,)), images[0])
