"""`feather` against loops over un-rotated queries and keys of an eager copy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vtokens
from tests.strategies.helpers import kept, pair, report, three_rows
from tests.strategies.staging import run
from vtokens.core.layout import Layout
from vtokens.core.picture import Picture
from vtokens.strategies import Facts, Visuals, get, parse
from vtokens.strategies.prune.feather import _grid


def unrotated(found: Any, layer: int, row: int, query: int, keys: list[int]) -> Tensor:
    """float64 (keys,): the softmax over `keys` of products without rotary embeddings, the mean over heads."""
    part = found.model.model.language_model.layers[layer]
    states = part.input_layernorm(found.states[layer])[row]
    attention = part.self_attn
    q = attention.q_proj(states[query]).double().view(-1, attention.head_dim)
    k = attention.k_proj(states[keys]).double().view(len(keys), -1, attention.head_dim)
    groups = len(q) // k.shape[1]
    rows = [(k[:, head // groups] @ q[head] * attention.scaling).softmax(0) for head in range(len(q))]
    return sum(rows, torch.zeros(len(keys), dtype=torch.float64)) / len(rows)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_both_stages_are_the_loops_of_the_text(family: str) -> None:
    """Stage one: the best by score and every second cell; stage two: the best of these by score alone."""
    found = run(family, "feather(keep=0.5, stride=2, layers=(1, 3))")
    model, batch = pair(family)[0], found.batch
    parts = [part for sample in report(model, batch, "random(keep=1)").samples for part in sample.pictures]
    for seen, part in zip(found.pictures, parts, strict=True):
        grid = {
            seen.places[cell]
            for cell in range(len(seen.places))
            if part.picture.y[cell] % 2 == 0 and part.picture.x[cell] % 2 == 0
        }
        everywhere = [place for one in found.pictures if one.row == seen.row for place in one.left[0]]
        scores = dict(zip(everywhere, unrotated(found, 0, seen.row, found.last[seen.row], everywhere), strict=True))
        ranked = sorted(seen.places, key=lambda place: -float(scores[place]))
        first = sorted({*ranked[: int(len(ranked) * 0.5 + 0.5)], *grid})
        assert seen.left[1] == seen.left[2] == first
        everywhere = [place for one in found.pictures if one.row == seen.row for place in one.left[2]]
        scores = dict(zip(everywhere, unrotated(found, 2, seen.row, found.last[seen.row], everywhere), strict=True))
        ranked = sorted(first, key=lambda place: -float(scores[place]))
        assert seen.left[3] == sorted(ranked[: max(1, int(len(first) * 0.25 + 0.5))])


@pytest.mark.parametrize(("side", "cells"), [(24, 64), (27, 81)])
def test_the_grid_has_every_third_row_and_column(side: int, cells: int) -> None:
    """64 of 24 x 24 cells, 81 of 27 x 27; each view of a picture has its own."""
    for views, times in (([(1, side, side)], 1), ([(1, side, side), (1, side, side)], 2), ([(2, side, side)], 2)):
        many = sum(t * h * w for t, h, w in views)
        mask = torch.ones(1, many, dtype=torch.bool)
        layout = Layout.build({"image": mask}, {"image": [Picture.of(views, [False] * len(views))]}, mask)
        visuals = Visuals(torch.zeros(1, many, 1), layout, "image", None)  # type: ignore[arg-type]
        found = _grid(visuals, 3)[0].numpy()
        assert found.sum() == cells * times
        square = found[: side * side].reshape(side, side)
        assert np.array_equal(np.flatnonzero(square.any(1)), np.arange(0, side, 3))


def test_settings() -> None:
    """A count is no 1 - R; layers 8 and 16 of 32 are 1 and 2 of 4; `rotary` is another score."""
    with pytest.raises(ValueError, match="keep=4 is a count: 'feather' takes a share"):
        parse("feather(keep=4)")
    with pytest.raises(ValueError, match="stride=0 is out of range"):
        parse("feather(stride=0)")
    assert get("feather")().needs(Facts("llava", depth=32, tower_depth=4, has_cls=True)).layer == (8, 16)
    assert get("feather")().needs(Facts("llava", depth=4, tower_depth=4, has_cls=True)).layer == (1, 2)
    model, batch = pair("llava")[0], three_rows("llava")
    turned = kept(model, batch, "feather(rotary=True, stride=4)", layer=1)
    assert turned != kept(model, batch, "feather(stride=4)", layer=1)
    with torch.no_grad(), vtokens.attach(model, "feather(keep=1.0)"):
        same = model(**batch).logits
    with torch.no_grad():
        assert torch.equal(same, model(**batch).logits)
