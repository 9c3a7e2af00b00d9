"""Noise of VCD on pictures that a family packs as patches: as long as each picture, and the same for each."""

from __future__ import annotations

import inspect

import pytest
import torch

from tests.engine.cases import model
from tests.engine.test_logits import noised
from tests.families import image, inputs
from vtokens.adapters import adapter_for
from vtokens.strategies import get


@pytest.mark.parametrize("family", ["minicpmv4_6", "molmo2", "paddleocr_vl", "qwen2_vl"])
def test_every_picture_has_noise_of_its_own(family: str) -> None:
    """No patch has the noise of another, and a picture in a batch has that of the picture alone."""
    pictures = [image(100, 60, seed=0), image(60, 130, seed=1)]
    batch, adapter = dict(inputs(family, ["<image> x <image>"], [pictures])), adapter_for(model(family, "plain"))
    names = inspect.signature(adapter.multimodal.get_image_features).parameters
    given = {name: value for name, value in batch.items() if name in names}
    change = get("vcd")(steps=500, seed=3).noised  # type: ignore[attr-defined]
    got = adapter.change_pixels("image", given, change)["pixel_values"]
    torch.testing.assert_close(got, noised(family, batch, 500, 3)["pixel_values"].float())
