"""Pictures of few colours: many tokens are equally alike, and a batch is no reason to merge them otherwise."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

import vtokens
from tests.families import FAMILIES, build, inputs
from tests.limits import BLOCKS, WIDTH, largest, rounding
from vtokens.kernels.bipartite_merge import TIE


def blocks(rng: random.Random) -> Image.Image:
    """One colour, and up to three boxes of others."""

    def colour() -> tuple[int, int, int]:
        return rng.randrange(256), rng.randrange(256), rng.randrange(256)

    width, height = 28 * rng.randint(2, 9), 28 * rng.randint(2, 9)
    picture = Image.new("RGB", (width, height), colour())
    for _ in range(rng.randrange(4)):
        x, y = rng.randrange(0, width, 28), rng.randrange(0, height, 28)
        picture.paste(colour(), (x, y, x + 28 * rng.randint(1, 3), y + 28 * rng.randint(1, 3)))
    return picture


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_merges_as_each_sample_alone(family: str) -> None:
    """Groups are the same ones, and logits agree; pictures, thresholds and unmerging are drawn."""
    model, processor = build(family)
    rng = random.Random(0)
    for _ in range(14 if family.startswith("qwen") else 3):
        pictures = [[blocks(rng)] for _ in range(rng.randint(2, 4))]
        texts = ["what <image> is " + "so " * rng.randint(0, 4) for _ in pictures]
        thresholds = (rng.choice((0.3, 0.6, 0.8, 0.9, 0.95, 0.99, 0.999)),) * 3
        with vtokens.attach(model, "dymu", thresholds=thresholds, unmerge=rng.random() < 0.5) as handle:
            together = model(**inputs(processor, texts, pictures)).logits[:, -1]
            groups = [sample.pictures[0].merged for sample in handle.report().samples]
            for row, group in enumerate(groups):
                alone = model(**inputs(processor, texts[row : row + 1], pictures[row : row + 1])).logits[0, -1]
                expected = handle.report().samples[0].pictures[0].merged
                assert group is not None
                assert expected is not None
                np.testing.assert_array_equal(group, expected)
                # Partners within a tie may differ by its square root, and at its edge rounding says who is one.
                room = (2 * TIE) ** 0.5 * largest(alone) if not family.startswith("qwen") else 0.0
                limit = rounding(alone, WIDTH, BLOCKS) + room
                torch.testing.assert_close(together[row], alone, rtol=0, atol=limit)
