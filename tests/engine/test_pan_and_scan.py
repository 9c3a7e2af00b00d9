"""Gemma 3's pan and scan: an image and its crops are one picture, told from the words that the processor writes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForImageTextToText

import vtokens
from tests.engine.masked import dropped_keys, masking
from tests.families import build, image
from tests.limits import close_pass
from vtokens.core.overlay import overlay

pytestmark = pytest.mark.usefixtures("no_grad")
CROPS = {
    "do_pan_and_scan": True, "pan_and_scan_min_crop_size": 20, "pan_and_scan_max_num_crops": 3,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}  # fmt: skip
SPECS = ("cls(keep=5)", "fastv(keep=5, layer=2)")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """A checkpoint with its tokenizer, as `from_pretrained` gives it, an eager one, and the processor."""
    folder: Path = tmp_path_factory.mktemp("gemma")
    model, processor = build("gemma3")
    model.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    return (
        AutoModelForImageTextToText.from_pretrained(folder).eval(),
        AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval(),
        processor,
    )


def asked(processor: Any, side: str, **options: Any) -> dict[str, Any]:
    """Rows with a wide image beside a square one, three beside each other, none, and hand-written blanks between."""
    wide, square, high = image(140, 60, seed=0), image(60, 60, seed=1), image(60, 200, seed=2)
    begin = processor.tokenizer.boi_token
    texts = [f"{begin} and {begin}?", f"{begin}{begin}{begin} which?", "hello", f"{begin} {begin} {begin} what?"]
    shown = [[wide, square], [wide, square, high], [], [square, square, square]]
    return dict(
        processor(images=shown, text=texts, padding=True, padding_side=side, return_tensors="pt", images_kwargs=options)
    )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_budget_is_an_images(saved: tuple[Any, Any, Any], spec: str, side: str) -> None:
    model, eager, processor = saved
    batch = asked(processor, side, **CROPS)
    with vtokens.attach(model, spec) as handle:
        output = model(**batch)
        report = handle.report()
    views = [[len(part.picture.grids) for part in sample.pictures] for sample in report.samples]
    assert views == [[3, 1], [3, 1, 4], [], [1, 1, 1]]
    assert sum(map(sum, views)) == len(batch["pixel_values"])
    for sample in report.samples:
        assert [len(part.kept[-1]) for part in sample.pictures] == [5] * len(sample.pictures)
    valid = batch["attention_mask"]
    with masking(eager, dropped_keys(report, valid)):
        expected = eager(**batch).logits
    for row, real in enumerate(valid.bool()):
        close_pass(output.logits[row, real][-1], expected[row, real][-1])
    with pytest.raises(ValueError, match="cut this image into 3 tiles"):
        overlay(image(140, 60, seed=0), report.samples[0].pictures[0])


def test_without_it_every_image_is_a_picture(saved: tuple[Any, Any, Any]) -> None:
    model, _, processor = saved
    with vtokens.attach(model, SPECS[0]) as handle:
        model(**asked(processor, "left"))
        assert [len(sample.pictures) for sample in handle.report().samples] == [2, 3, 0, 3]


def test_a_model_without_its_tokenizer_says_that_crops_stay_apart() -> None:
    """Only where a prompt shows as many pictures as an image with its crops is."""
    model, processor = build("gemma3")
    batch = asked(processor, "left", **CROPS)
    with vtokens.attach(model, SPECS[0]) as handle:
        with pytest.warns(UserWarning, match="which pictures of a prompt are crops of one is not known"):
            model(**batch)
        assert [len(sample.pictures) for sample in handle.report().samples] == [4, 8, 0, 3]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(**batch)
