"""FoPru: whole rows of the picture, or single tokens, by the tower's attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.strategies.helpers import kept, pair, probe, three_rows
from tests.strategies.invariants import Shown, hold, keeps_all, picks
from vtokens.strategies import Saliency


def pictures() -> tuple[list[tuple[int, int, int]], list[Shown]]:
    grids = [(1, 5, 6), (1, 3, 8), (2, 4, 3)]
    made = torch.Generator().manual_seed(0)
    sizes = [int(np.prod(grid)) for grid in grids]
    return grids, [
        Shown(torch.randn(size, 4, generator=made), torch.rand(size, generator=made), grid=grid)
        for size, grid in zip(sizes, grids, strict=True)
    ]


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_rows_are_whole(rows: int) -> None:
    """The rows with the highest sums, in a ragged batch and over frames, each picture by itself."""
    grids, shown = pictures()
    for grid, picture in zip(grids, shown, strict=True):
        sums = picture.saliency.double().numpy().reshape(-1, grid[2]).sum(1)
        best = sorted(np.argsort(-sums)[:rows].tolist())
        expected = [row * grid[2] + column for row in best for column in range(grid[2])]
        assert picks(f"fopru(keep={rows * grid[2]}, by='row')", picture) == [expected]
    together = picks("fopru(keep=12, by='row')", *shown)
    assert together == [picks("fopru(keep=12, by='row')", one)[0] for one in shown]


def test_the_last_row_is_cut_on_the_right() -> None:
    _, shown = pictures()
    sums = shown[0].saliency.double().numpy().reshape(-1, 6).sum(1)
    first, second = np.argsort(-sums)[:2]
    expected = [*range(first * 6, first * 6 + 6), *range(second * 6, second * 6 + 2)]
    assert picks("fopru(keep=8, by='row')", shown[0]) == [sorted(map(int, expected))]


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
@pytest.mark.parametrize("rows", ["cls", "all"])
def test_ranks_are_those_of_the_tower(family: str, rows: str) -> None:
    target, batch = pair(family)[0], three_rows(family)
    signal = Saliency(rows=rows)  # type: ignore[arg-type]
    scores = probe(target, batch, signal)[signal]
    expected = [sorted(part.topk(4).indices.tolist()) for part in scores]
    assert kept(target, batch, f"fopru(keep=4, rows='{rows}')") == expected


def test_what_holds_of_pruners() -> None:
    hold("fopru(keep=5)")
    hold("fopru(keep=5, by='row')", moves=False)
    keeps_all("fopru", by="row")


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown by .column.\. Allowed: rank, row"):
        vtokens.attach(model("llava", "pruned"), "fopru(by='column')")
