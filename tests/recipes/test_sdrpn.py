"""The stand-in for SD-RPN, against a blur by loops and regions by a flood fill."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import vtokens
from tests.recipes.looking import GREEDY, QUESTION, answered, made, picture, prompted, received
from vtokens.recipes import sdrpn
from vtokens.recipes.looking.sdrpn import blurred, in_pixels, regions

GENERAL = "Write a general description of the image."


def smoothed(values: np.ndarray) -> np.ndarray:
    """A Gaussian of 3 x 3 cells with sigma 1, cell by cell; beyond the border the nearest cell counts."""
    rows, columns = values.shape
    weights = {(a, b): math.exp(-(a * a + b * b) / 2) for a in (-1, 0, 1) for b in (-1, 0, 1)}
    total = sum(weights.values())
    found = np.zeros_like(values)
    for y in range(rows):
        for x in range(columns):
            for (a, b), weight in weights.items():
                near = values[min(max(y + a, 0), rows - 1), min(max(x + b, 0), columns - 1)]
                found[y, x] += weight / total * near
    return found


def filled(values: np.ndarray, threshold: float) -> list[tuple[int, int, int, int]]:
    """Boxes of cells above the threshold, by walking from each to its eight neighbours."""
    left_over = {tuple(at) for at in np.argwhere(values > threshold * values.max())}
    found = []
    for start in sorted(left_over):
        if start not in left_over:
            continue
        walk, members = [start], set()
        left_over.discard(start)
        while walk:
            y, x = walk.pop()
            members.add((y, x))
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left_over
            left_over -= near
            walk += near
        if len(members) > 1:
            rows, columns = [y for y, _ in members], [x for _, x in members]
            found.append((min(columns), min(rows), max(columns) + 1, max(rows) + 1))
    return found


@pytest.mark.parametrize("shape", [(6, 6), (12, 7), (24, 24), (1, 9)])
def test_regions_are_those_of_a_flood_fill(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        values = rng.random(shape) ** 6
        np.testing.assert_allclose(blurred(values), smoothed(values), rtol=1e-12)
        grown, tight = regions(values, 0.15), filled(values, 0.15)
        assert len(grown) == len(tight)
        for (x0, y0, x1, y1), (a0, b0, a1, b1) in zip(grown, tight, strict=True):
            assert x0 <= a0 < a1 <= x1
            assert y0 <= b0 < b1 <= y1
            assert (x1 - x0, y1 - y0) == (max(a1 - a0, min(3, shape[1])), max(b1 - b0, min(3, shape[0])))
            assert min(x0, y0) >= 0
            assert (x1, y1) <= (shape[1], shape[0]) or y1 <= shape[0]


def test_a_worked_case() -> None:
    """Two cells that touch by a corner are a region, a lone one is none, and what lies at the border grows inwards."""
    values = np.zeros((6, 8))
    values[0, 0] = values[1, 1] = 1.0
    values[5, 7] = values[5, 6] = 0.5
    values[3, 4] = 0.9
    assert regions(values, 0.2) == [(0, 0, 3, 3), (5, 3, 8, 6)]
    assert in_pixels((5, 3, 8, 6), (6, 8), (10.0, 0.0, 90.0, 60.0)) == (60, 30, 90, 60)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_best_regions_are_shown_beside_the_picture(family: str) -> None:
    model, processor = made(family)
    shown = picture()
    got = answered(sdrpn, model, processor, shown, layer=1, threshold=0.3, most=2, **GREEDY)
    assert got.passes == 3
    expected = received(family, QUESTION, 1, shown) / received(family, GENERAL, 1, shown)
    np.testing.assert_allclose(got.notes["attention"], expected, rtol=2e-4)
    assert 1 <= len(got.boxes) <= 2
    cut = [shown.crop(box) for box in got.boxes]
    tokens = model.generate(**prompted(processor, QUESTION, shown, *cut), do_sample=False, **GREEDY)
    assert torch.equal(got.said.sequences, tokens)


def test_without_a_region_the_picture_alone_is_asked_about_and_pruners_act_in_the_answer() -> None:
    model, processor = made("llava")
    with vtokens.attach(model, "cls(keep=0.25)") as handle:
        got = sdrpn(model, processor, picture(), QUESTION, threshold=1.0, **GREEDY)
        assert len(handle.report().samples[0].pictures) == 1
    assert (got.boxes, got.passes, len(got.images)) == ((), 3, 1)
    assert got.flops < got.flops_full


def test_what_is_out_of_range_is_said() -> None:
    model, processor = made("llava")
    for more, says in (({"threshold": 2.0}, r"\[0, 1\]"), ({"most": 0}, "at least 1"), ({"layer": 7}, "nearest")):
        with pytest.raises(ValueError, match=says):
            sdrpn(model, processor, picture(), QUESTION, **more)
