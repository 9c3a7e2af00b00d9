"""The part of a picture that a model is given, as the page draws it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.families import build
from vtokens.serve.shown import seen_shares


@pytest.mark.parametrize("size", [{"shortest_edge": 56}, {"height": 56, "width": 56}, {"height": 64, "width": 80}])
def test_the_part_is_that_which_the_processor_keeps(size: dict[str, int]) -> None:
    """The grey of a column tells where it is, and the processor's own pixels which columns are left."""
    _, processor = build("llava")
    one = processor.image_processor
    one.size = type(one.size)(**size)
    grey = np.linspace(0, 255, 200, dtype=np.uint8)
    wide = Image.fromarray(np.broadcast_to(grey[None, :, None], (100, 200, 3)).copy())
    made = one(images=wide, return_tensors="np", do_normalize=False, do_rescale=False)["pixel_values"][0]
    [[left, top, width, height]] = seen_shares(processor, [wide])
    step = 1.5 * 255 * width / 56  # a pixel and a half
    assert made[0, 28, 0] == pytest.approx(255 * left, abs=step)
    assert made[0, 28, -1] == pytest.approx(255 * (left + width), abs=step)
    assert (top, height) == ((0, 1) if size.get("height") != 64 else (0.0625, 0.875))
