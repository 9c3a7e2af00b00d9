"""The recipe `crop`, against a plain eager model, autograd on its attention matrices, and windows slid by loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import vtokens
from tests.families import build, image
from tests.recipes.looking import GREEDY, QUESTION, answered, counted, grid, made, picture, prompted, received
from vtokens.recipes import crop
from vtokens.recipes.looking.crop import window
from vtokens.recipes.looking.frame import framed

GENERAL = "Write a general description of the image."
FAMILIES = ("llava", "qwen2_vl", "qwen2_5_vl")


def slid(attention: np.ndarray, frame: tuple[float, ...], size: float) -> tuple[int, ...]:
    """The window by loops over ratios, columns and rows, each sum anew."""
    rows, columns = attention.shape
    left, top, right, bottom = frame
    wide, high = (right - left) / columns, (bottom - top) / rows
    found = []
    for ratio in (1, 1.2, 1.4, 1.6, 1.8, 2):
        across, down = min(columns, max(1, int(size * ratio / wide))), min(rows, max(1, int(size * ratio / high)))
        if across == columns and down == rows:
            continue
        sums = {
            (x, y): float(attention[y : y + down, x : x + across].sum())
            for x in range(columns - across + 1)
            for y in range(rows - down + 1)
        }
        x, y = max(sums, key=lambda at: (sums[at], -at[0], -at[1]))
        around = [sums[at] for at in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)) if at in sums]
        found.append(((sums[x, y] - sum(around) / len(around)) / (across * down), ratio, x, y, across, down))
    if not found:
        return tuple(map(round, frame))
    sharp = max(one[0] for one in found)
    _, ratio, x, y, across, down = next(one for one in found if one[0] == sharp)
    half = size * ratio / 2
    centre = [left + (x + across / 2) * wide, top + (y + down / 2) * high]
    for axis, (low, up) in enumerate(((left, right), (top, bottom))):
        lowest, highest = low + half, up - half
        centre[axis] = (low + up) / 2 if lowest > highest else min(max(centre[axis], lowest), highest)
    low = [max(edge, one - half) for edge, one in zip((left, top), centre, strict=True)]
    high_ = [min(edge, one + half) for edge, one in zip((right, bottom), centre, strict=True)]
    return tuple(map(round, (*low, *high_)))


@pytest.mark.parametrize("family", FAMILIES)
def test_relative_attention_and_the_box_are_those_of_plain_loops(family: str) -> None:
    """Three passes: the question, a general one, and the answer to the picture and the cutting."""
    model, processor = made(family)
    shown = picture()
    got = answered(crop, model, processor, shown, layer=1, size=30, **GREEDY)
    assert got.passes == 3
    expected = received(family, QUESTION, 1, shown) / received(family, GENERAL, 1, shown)
    np.testing.assert_allclose(got.notes["attention"], expected, rtol=2e-4)
    assert got.boxes == (slid(got.notes["attention"], framed(processor, shown), 30),)
    cut = shown.crop(got.boxes[0])
    tokens = model.generate(**prompted(processor, QUESTION, shown, cut), do_sample=False, **GREEDY)
    assert torch.equal(got.said.sequences, tokens)
    assert got.recipe == "crop(layer=1, size=30)"


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_attention_is_that_of_autograd_on_the_matrices(family: str) -> None:
    """A * ReLU(d log p / d A), A the matrix that an eager model returns and autograd differentiates by."""
    model, processor = made(family)
    shown = picture()
    with counted(model) as lengths:
        got = crop(model, processor, shown, QUESTION, method="gradient", layer=2, size=30, **GREEDY)
    assert got.passes == len(lengths) == 2
    eager, _ = made(family, attn_implementation="eager")
    inputs = prompted(processor, QUESTION, shown)
    with torch.enable_grad():
        output = eager(**inputs, output_attentions=True)
        likely = output.logits[0, -1].log_softmax(-1).max()
        (slope,) = torch.autograd.grad(likely, output.attentions[2])
    worth = (output.attentions[2] * slope.relu())[0, :, -1].mean(0).detach().double().numpy()
    expected = grid(eager, inputs, worth)
    assert expected.max() > 0
    np.testing.assert_allclose(got.notes["attention"], expected, rtol=1e-3, atol=float(expected.max()) * 1e-5)
    assert got.boxes == (slid(got.notes["attention"], framed(processor, shown), 30),)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("method", ["relative", "gradient"])
@pytest.mark.parametrize("spec", ["cls(keep=0.25)", "fastv(keep=0.25, layer=1)+pai", "vcd"])
def test_it_looks_with_the_plain_model_and_answers_with_the_attached(spec: str, method: str) -> None:
    family = "llava" if spec.startswith(("cls", "vcd")) else "qwen2_5_vl"
    model, processor = build(family)
    shown = picture()
    plain = crop(model, processor, shown, QUESTION, method=method, **GREEDY)
    with vtokens.attach(model, spec):
        got = crop(model, processor, shown, QUESTION, method=method, **GREEDY)
        cut = shown.crop(got.boxes[0])
        torch.manual_seed(0)
        tokens = model.generate(**prompted(processor, QUESTION, shown, cut), do_sample=False, **GREEDY)
    np.testing.assert_array_equal(got.notes["attention"], plain.notes["attention"])
    assert got.boxes == plain.boxes
    if spec != "vcd":  # whose noise is drawn anew
        assert torch.equal(got.said.sequences, tokens)
        assert got.flops < got.flops_full == plain.flops_full == plain.flops


def test_a_window_around_the_one_bright_cell() -> None:
    """Whatever the ratio, the cell lies in it; a constant map gives a window all the same; a small picture itself."""
    for row, column in ((0, 0), (3, 17), (11, 5), (23, 23)):
        attention = np.full((24, 24), 1e-3)
        attention[row, column] = 1.0
        left, top, right, bottom = window(attention, (0.0, 0.0, 1200.0, 900.0), 336)
        assert left <= column * 50 < (column + 1) * 50 <= right
        assert top <= row * 37.5 < (row + 1) * 37.5 <= bottom
    assert window(np.ones((24, 24)), (0.0, 0.0, 1200.0, 900.0), 336)[2] <= 1200
    assert window(np.ones((4, 4)), (10.0, 0.0, 90.0, 80.0), 336) == (10, 0, 90, 80)


@pytest.mark.parametrize("shape", [(5, 9), (24, 24), (13, 2)])
def test_windows_are_those_of_loops(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        attention = rng.integers(0, 50, shape).astype(float)
        frame, size = (7.0, 3.0, 7.0 + 40 * shape[1], 3.0 + 31 * shape[0]), float(rng.integers(20, 200))
        assert window(attention, frame, size) == slid(attention, frame, size)


def test_cuttings_of_a_processor_that_crops_lie_where_they_were_seen() -> None:
    """LLaVA 1.5 sees the centre square of a wide picture; what was bright there is what is cut out of the original."""
    _, processor = made("llava")
    wide = Image.new("RGB", (600, 200), (0, 0, 0))
    left, top, right, bottom = framed(processor, wide)
    assert (left, top, right, bottom) == (200.0, 0.0, 400.0, 200.0)
    # 200 x 101 is scaled to 110 x 56 (110.9 is cut off), of which the columns 27 to 83 are kept.
    side = processor.image_processor.crop_size["height"]
    assert side == 56
    assert framed(processor, Image.new("RGB", (200, 101))) == pytest.approx((27 / 110 * 200, 0, 83 / 110 * 200, 101))
    wide.paste((255, 255, 255), (350, 150, 400, 200))
    seen = np.asarray(processor(images=[wide], text=["<image>"], return_tensors="np")["pixel_values"])[0].mean(0)
    bright = seen.reshape(2, side // 2, 2, side // 2).mean((1, 3))
    assert np.unravel_index(bright.argmax(), bright.shape) == (1, 1)
    box = window(np.array([[0.0, 0.0], [0.0, 1.0]]), (left, top, right, bottom), 100)
    assert np.asarray(wide.crop(box)).mean() > 50


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"layer": 9}, ValueError, "the nearest is"),
        ({"size": 0}, ValueError, "at least 1"),
        ({"method": "relativ"}, ValueError, "Did you mean 'relative'"),
        ({"general": " "}, ValueError, "asks for nothing in particular"),
        ({"max_new_token": 3}, ValueError, "Did you mean 'max_new_tokens'"),
        ({"metod": "gradient"}, ValueError, "Did you mean 'method'"),
    ],
)
def test_what_is_out_of_range_is_said(more: dict[str, object], error: type[Exception], says: str) -> None:
    model, processor = made("llava")
    with pytest.raises(error, match=says):
        crop(model, processor, picture(), QUESTION, **more)


def test_what_it_cannot_do_is_refused() -> None:
    model, processor = made("llava")
    with pytest.raises(TypeError, match="one question about one picture, and was given 'list' for the picture"):
        crop(model, processor, [picture(), picture()], QUESTION)
    with pytest.raises(TypeError, match="for the question"):
        crop(model, processor, picture(), [QUESTION])
    model, processor = made("mllama")
    with pytest.raises(ValueError, match=r"the recipe 'crop' cannot look at this model: .*cross-attention"):
        crop(model, processor, image(60, 60, seed=0), QUESTION)
