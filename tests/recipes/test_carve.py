"""The recipe `carve`, against a plain eager model and pixels chosen by a sorted list."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import vtokens
from tests.recipes.looking import GREEDY, QUESTION, answered, made, picture, prompted, received
from vtokens.adapters import adapter_for
from vtokens.recipes import carve
from vtokens.recipes.looking.carve import Carve, carve_out
from vtokens.recipes.looking.frame import framed

GENERAL = "Write a general description of the image."


def painted(image: Image.Image, contrast: np.ndarray, frame: tuple[float, ...], keep: float) -> np.ndarray:
    """What the patches cover, all but the pixels with most contrast in its mean colour: one by one."""
    seen = image.crop(tuple(map(round, frame)))
    smooth = Image.fromarray(contrast.astype(np.float32)).resize(seen.size, Image.Resampling.BILINEAR)
    order = sorted(
        ((-smooth.getpixel((x, y)), y, x) for y in range(seen.height) for x in range(seen.width)),
    )[: max(1, round(keep * seen.width * seen.height))]
    given = np.asarray(seen)
    result = np.empty_like(given)
    result[:] = [round(float(given[..., channel].mean())) for channel in range(3)]
    for _, y, x in order:
        result[y, x] = given[y, x]
    rows, columns = [one[1] for one in order], [one[2] for one in order]
    return result[min(rows) : max(rows) + 1, min(columns) : max(columns) + 1]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_pixels_are_those_with_the_greatest_contrast(family: str) -> None:
    model, processor = made(family)
    shown = picture()
    got = answered(carve, model, processor, shown, first=0, last=2, share=0.3, **GREEDY)
    assert got.passes == 3
    contrasts = []
    for layer in range(3):
        usual = received(family, GENERAL, layer, shown)
        contrasts.append(received(family, QUESTION, layer, shown) / (usual + usual.mean()))
    np.testing.assert_allclose(got.notes["attention"], np.mean(contrasts, 0), rtol=2e-4)
    expected = painted(shown, got.notes["attention"], framed(processor, shown), 0.3)
    np.testing.assert_array_equal(np.asarray(got.images[1]), expected)
    left, top, right, bottom = got.boxes[0]
    assert got.images[1].size == (right - left, bottom - top)
    tokens = model.generate(**prompted(processor, QUESTION, shown, got.images[1]), do_sample=False, **GREEDY)
    assert torch.equal(got.said.sequences, tokens)


def test_what_is_attached_acts_in_the_answer_alone() -> None:
    model, processor = made("llava")
    plain = carve(model, processor, picture(), QUESTION, **GREEDY)
    with vtokens.attach(model, "fastv(keep=0.25, layer=1)"):
        got = carve(model, processor, picture(), QUESTION, **GREEDY)
    np.testing.assert_array_equal(got.notes["attention"], plain.notes["attention"])
    assert got.flops < got.flops_full == plain.flops


def test_all_of_a_picture_stays_and_one_pixel_of_it() -> None:
    shown, contrast = picture(), np.arange(12.0).reshape(3, 4)
    frame = (0.0, 0.0, 112.0, 84.0)
    carved, box = carve_out(shown, contrast, frame, 1.0)
    assert box == (0, 0, 112, 84)
    np.testing.assert_array_equal(np.asarray(carved), np.asarray(shown))
    carved, box = carve_out(shown, contrast, frame, 0.0)
    assert carved.size == (1, 1)
    assert box[0] >= 84  # the greatest contrast is at the lower right
    assert box[1] >= 56


def test_hybrid_decoders_are_read_where_they_attend() -> None:
    """Of four layers of Qwen3.5 the second and the last attend, and the last cannot be read."""
    facts = adapter_for(made("qwen3_5")[0]).facts
    assert Carve().layers(facts) == tuple(layer for layer in facts.attending if layer < facts.depth - 1)[-1:]
    assert adapter_for(made("llava")[0]).facts.depth // 2 in Carve().layers(adapter_for(made("llava")[0]).facts)


def test_what_is_out_of_range_is_said() -> None:
    model, processor = made("llava")
    for more, says in (({"share": 1.5}, r"\[0, 1\]"), ({"first": 9}, "nearest"), ({"first": 2, "last": 1}, "no layer")):
        with pytest.raises(ValueError, match=says):
            carve(model, processor, picture(), QUESTION, **more)
    assert str(Carve(share=0.5)) == "carve(share=0.5)"
