"""Pictures of kept patches: brightness is the share of layers that saw a patch, geometry follows the processor."""

import numpy as np
import pytest
from PIL import Image

import vtokens
from tests.families import build, image, inputs
from vtokens.core.overlay import overlay, seen_image, whole_picture


def report(family, spec, picture):
    model, processor = build(family)
    with vtokens.attach(model, spec) as handle:
        model.generate(**inputs(processor, ["Is there a cat?"], [[picture]]), max_new_tokens=1)
        return handle.report().samples[0].pictures[0], processor


def test_brightness_is_the_share_of_layers_that_saw_a_patch():
    kept, _ = report("llava", "fastv(keep=4, layer=3)", image(56, 56, seed=0))
    light = kept.brightness()
    assert light.shape == (1, 4, 4)
    assert sorted(set(light.ravel().round(6))) == [0.75, 1.0]  # 3 of 4 layers see everything
    assert (light == 1).sum() == 4


def test_dropped_patches_are_darker_where_they_are():
    white = Image.new("RGB", (56, 56), "white")
    kept, processor = report("llava", "uniform(keep=4)", white)
    drawn = np.asarray(overlay(seen_image(processor, white), kept, scale=1)).mean(-1)
    blocks = drawn.reshape(4, 14, 4, 14)
    assert (blocks == blocks[:, :1, :, :1]).all()  # one brightness a patch
    stays = kept.brightness()[0] == 1
    assert (blocks[:, 0, :, 0][stays] == 255).all()
    assert (blocks[:, 0, :, 0][~stays] < 80).all()


@pytest.mark.parametrize(("family", "views"), [("llava_next", 2), ("qwen2_5_vl", 1)])
def test_every_view_has_its_grid(family, views):
    kept, _ = report(family, "uniform(keep=0.5)", image(112, 56, seed=1))
    assert len(kept.picture.grids) == views
    total = sum(int((kept.brightness(view) == 1).sum()) for view in range(views))
    assert total == len(kept.kept[0])


@pytest.mark.parametrize("family", ["idefics3", "internvl", "ovis2"])
def test_tiles_are_not_drawn_over_the_whole_image(family):
    picture = image(160, 60, seed=1)
    model, processor = build(family)
    with vtokens.attach(model, "uniform(keep=0.5)") as handle:
        model.generate(**inputs(processor, ["Is it?"], [[picture]]), max_new_tokens=1)
        pictures = handle.report().samples[0].pictures
    with pytest.raises(ValueError, match=r"cut this image into \d tiles.*do_image_splitting=False"):
        overlay(picture, whole_picture(pictures))
    with pytest.raises(ValueError, match=r"made 2 pictures of this image.*do_pan_and_scan=False"):
        whole_picture(pictures * 2)


def test_the_centre_square_is_shown_where_the_processor_crops_it():
    _, processor = build("llava")
    wide = Image.fromarray(np.repeat(np.linspace(0, 255, 200, dtype=np.uint8)[None, :, None], 100, 0).repeat(3, 2))
    seen = seen_image(processor, wide)
    assert seen.size == (56, 56)
    pixels = np.asarray(seen)[28, :, 0]
    assert 55 < pixels[0] < 75  # the left quarter of the gradient is cut away
    assert 180 < pixels[-1] < 200


@pytest.mark.parametrize("shape", [(200, 100), (200, 101), (101, 200)])
@pytest.mark.parametrize("size", [{"shortest_edge": 56}, {"height": 56, "width": 56}, {"height": 64, "width": 80}])
def test_what_is_shown_is_what_the_processor_makes(size, shape):
    _, processor = build("llava")
    one = processor.image_processor
    one.size = type(one.size)(**size) if not isinstance(one.size, dict) else size
    ramp = np.linspace(0, 255, max(shape), dtype=np.uint8)
    ramp = ramp if shape[0] == max(shape) else ramp[:, None]
    rising = Image.fromarray(np.broadcast_to(ramp, shape[::-1])).convert("RGB")
    made = one(images=rising, return_tensors="np", do_normalize=False, do_rescale=False)["pixel_values"][0]
    assert np.abs(np.asarray(seen_image(processor, rising), float) - np.moveaxis(made, 0, -1)).max() <= 1


def test_merged_patches_are_one_area_with_a_line_around_it():
    black = Image.new("RGB", (56, 56), "black")
    kept, _ = report("llava", "dymu(thresholds=(0.5, 0.4))", image(56, 56, seed=0))
    assert len(kept.kept[0]) < 16
    assert sorted(set(kept.merged.tolist())) == kept.kept[0].tolist()  # each token stands at its first position
    assert (kept.merged <= np.arange(16)).all()
    assert (kept.brightness() == 1).all()  # nothing is lost
    drawn = np.asarray(overlay(black, kept, scale=1)).mean(-1)
    token = kept.merged.reshape(4, 4)
    for y in range(4):
        for x in range(1, 4):
            line = drawn[14 * y + 7, 14 * x] > 0
            assert line == (token[y, x] != token[y, x - 1])
    plain, _ = report("llava", "uniform(keep=4)", image(56, 56, seed=0))
    assert plain.merged is None


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl"])
def test_newlines_and_other_pictures_stay_out_of_what_was_merged(family):
    kept, _ = report(family, "dymu(thresholds=(0.5, 0.4))", image(112, 56, seed=1))
    real = kept.picture.view >= 0
    assert (kept.merged[~real] == np.flatnonzero(~real)).all()
    assert real[kept.merged[real]].all()
    assert len(set(kept.merged[real].tolist())) == len(kept.kept[0])


@pytest.mark.parametrize("size", [(100, 60), (40, 40), (60, 150), (30, 20)])
def test_a_canvas_of_tiles_is_what_the_processor_makes_of_a_picture(size):
    """Put together from the tiles that the model gets; patches of the grid are then where they are drawn."""
    picture = image(*size, seed=2)
    kept, processor = report("mllama", "uniform(keep=0.5)", picture)
    _, high, wide = kept.picture.grids[0]
    made = processor.image_processor([[picture]], return_tensors="np", do_normalize=False)
    rows, columns = high // 3, wide // 3
    tiles = made["pixel_values"][0, 0, : rows * columns].reshape(rows, columns, 3, 42, 42)
    expected = tiles.transpose(0, 3, 1, 4, 2).reshape(rows * 42, columns * 42, 3) * 255
    drawn = np.asarray(seen_image(processor, picture), dtype=float)
    assert drawn.shape == expected.shape
    assert np.abs(drawn - expected).max() <= 1
