"""Pictures of few colours: many tokens are equally alike, and a batch is no reason to merge them otherwise."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vtokens
from tests.families import FAMILIES, build, inputs
from tests.limits import BLOCKS, WIDTH, largest, rounding
from vtokens.kernels.bipartite_merge import TIE, match


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


def groups(handle: vtokens.Handle) -> list[Any]:
    """Which patches each sample of the last pass merged: one array a sample, of its only picture."""
    return [sample.pictures[0].merged for sample in handle.report().samples]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_merges_as_each_sample_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are the same ones, and logits agree; pictures, thresholds and unmerging are drawn.

    A cosine at the very edge of a tie may be inside of it in the batch and outside alone, by rounding. Then the batch
    merges as the sample alone does where ties are a little wider or narrower; else it was no edge.
    """
    kernel = sys.modules[match.__module__]
    model, processor = build(family)
    rng = random.Random(0)
    for _ in range(14 if family.startswith("qwen") else 3):
        pictures = [[blocks(rng)] for _ in range(rng.randint(2, 4))]
        texts = ["what <image> is " + "so " * rng.randint(0, 4) for _ in pictures]
        thresholds = (rng.choice((0.3, 0.6, 0.8, 0.9, 0.95, 0.99, 0.999)),) * 3
        with vtokens.attach(model, "dymu", thresholds=thresholds, unmerge=rng.random() < 0.5) as handle:
            together = model(**inputs(processor, texts, pictures)).logits[:, -1]
            for row, group in enumerate(groups(handle)):
                one = inputs(processor, texts[row : row + 1], pictures[row : row + 1])
                alone = model(**one).logits[0, -1]
                edges = [groups(handle)[0]]
                if not np.array_equal(group, edges[0]):
                    for ties in (15 / 16 * TIE, 17 / 16 * TIE):
                        monkeypatch.setattr(kernel, "TIE", ties)
                        model(**one)
                        edges += groups(handle)
                    monkeypatch.undo()
                assert any(np.array_equal(group, edge) for edge in edges)
                # Partners within a tie may differ by its square root, and at its edge rounding says who is one.
                room = (2 * TIE) ** 0.5 * largest(alone) if not family.startswith("qwen") else 0.0
                limit = rounding(alone, WIDTH, BLOCKS) + room
                torch.testing.assert_close(together[row], alone, rtol=0, atol=limit)
