"""Crop and zoom, against attention matrices of the plain model and a second call made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vtokens
from tests.engine.state import snapshot
from tests.families import build, image
from vtokens.core.overlay import seen_image
from vtokens.recipes import zoom

OPTIONS = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4}


def prompt(family: str, count: int) -> str:
    mark = "<image>" if family.startswith("llava") else "<|vision_start|><|image_pad|><|vision_end|>"
    return mark * count + "what is in the corner?"


@pytest.mark.parametrize(
    ("family", "layer", "share"), [("llava", 1, 0.5), ("qwen2_5_vl", None, 0.4), ("qwen2_vl", 2, 1.0)]
)
@torch.no_grad()
def test_it_shows_again_what_the_question_looked_at(family: str, layer: int | None, share: float) -> None:
    model, processor = build(family, attn_implementation="eager")
    picture = image(112, 84, seed=4)
    own = processor(images=[[picture]], text=[prompt(family, 1)], return_tensors="pt")
    output = model(**own, output_attentions=True)
    clean = snapshot(model)
    got = zoom(model, processor, lambda count: prompt(family, count), picture, layer=layer, share=share, **OPTIONS)
    assert snapshot(model) == clean
    row = output.attentions[1 if layer is None else layer][0, :, -1].mean(0)
    scores = row[own["input_ids"][0] == model.config.image_token_id].numpy().reshape(got.attention.shape)
    np.testing.assert_allclose(got.attention, scores, atol=1e-6)
    rows, columns = scores.shape
    high, wide = max(1, round(rows * share)), max(1, round(columns * share))
    sums = {
        (top, left): float(scores[top : top + high, left : left + wide].sum())
        for top in range(rows - high + 1)
        for left in range(columns - wide + 1)
    }
    left, top, right, bottom = got.box
    size = (got.crop.width, got.crop.height)
    assert size == (right - left, bottom - top)
    seen = seen_image(processor, picture)
    width, height = seen.size
    found = (round(top * rows / height), round(left * columns / width))
    assert sums[found] == pytest.approx(max(sums.values()), abs=1e-6)
    both = processor(images=[[seen, got.crop]], text=[prompt(family, 2)], return_tensors="pt")
    assert torch.equal(got.sequences, model.generate(**both, **OPTIONS))
    if share == 1.0:
        assert got.box == (0, 0, picture.width, picture.height)


@torch.no_grad()
def test_what_is_attached_acts_in_it() -> None:
    model, processor = build("qwen2_vl")
    picture = image(112, 84, seed=4)
    with vtokens.attach(model, "cls(keep=0.25)") as handle:
        got = zoom(model, processor, lambda count: prompt("qwen2_vl", count), picture, **OPTIONS)
        both = processor(images=[[picture, got.crop]], text=[prompt("qwen2_vl", 2)], return_tensors="pt")
        assert torch.equal(got.sequences, model.generate(**both, **OPTIONS))
        assert len(handle.report().samples[0].pictures) == 2


def test_what_is_out_of_range_is_said() -> None:
    model, processor = build("llava")
    for more, error, says in (({"layer": 9}, ValueError, "the nearest is"), ({"share": 0.0}, ValueError, r"\(0, 1\]")):
        with pytest.raises(error, match=says):
            zoom(model, processor, lambda count: prompt("llava", count), image(60, 60, seed=0), **more)
