"""The patterns of heads on attention calls with planted structure, and what is kept whatever the pattern."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.kernels.sparse import close, dense, visible
from vtokens.kernels import block_sparse_attention
from vtokens.tables.patterns import AShape, Grid, Run, VerticalSlash
from vtokens.tables.patterns import index as module
from vtokens.tables.patterns.grid import find_grid
from vtokens.tables.patterns.index import INTER, LAST, Scene, index, share

PATTERNS = (None, AShape(4, 8), VerticalSlash(6, 1, 8), Grid(window=8), Grid(slashes=True, text=4), Grid(rows=False))


def scene(
    rows: int = 300, keys: int = 300, heads: int = 2, pictures: tuple[tuple[int, int], ...] = ((30, 250),),
    batch: int = 1, pad: int = 0, block: tuple[int, int] = (16, 8),
) -> Scene:  # fmt: skip
    """Random queries and keys, with pictures at some positions and padding at the start of sample 0."""
    visual = torch.zeros(batch, keys, dtype=torch.bool)
    for first, after in pictures:
        visual[:, first:after] = True
    valid = torch.ones_like(visual)
    valid[0, :pad] = False
    query, key = torch.randn(batch, heads, rows, 16), torch.randn(batch, heads // 2, keys, 16)
    return Scene(query, key, 0.25, visual, valid if pad else None, (14, 15), block)


def planted(place: Scene, score: Tensor, heads: int) -> Scene:
    """The scene with queries and keys whose products are `score` (M, N) for every head, by its singular vectors."""
    left, size, right = torch.linalg.svd(score)
    query = (left * size.sqrt()).expand(1, heads, -1, -1)
    return replace(place, query=query, key=(right.mT * size.sqrt()).expand(1, heads // 2, -1, -1), scaling=1.0)


@pytest.mark.parametrize("inter", INTER)
@pytest.mark.parametrize("offset", [0, 60])
def test_output_is_that_of_the_visited_pairs(inter: str, offset: int) -> None:
    """All patterns side by side: SDPA with the mask of the visited tiles; a batch with padding, pictures and text."""
    torch.manual_seed(0)
    place = scene(240, 240 + offset, 2 * len(PATTERNS), ((20, 90), (91, 100), (120, 200)), 2, 17)
    runs = [Run(inter, intra) for intra in PATTERNS for _ in range(2)]
    tiles = index(runs, place)
    value = torch.randn(2, len(PATTERNS), 240 + offset, 8)
    mask = visible(tiles, len(runs))
    got = block_sparse_attention(place.query, place.key, value, tiles, place.scaling)
    close(got, dense(place.query, place.key, value, mask, place.scaling))
    causal = torch.ones(240, 240 + offset, dtype=torch.bool).tril(offset)
    assert place.valid is not None
    allowed = causal & place.valid[:, None, None]
    assert torch.equal(mask[:, :2], allowed.expand(-1, 2, -1, -1))  # the dense heads
    assert not (mask & ~allowed).any()
    assert mask.sum() < 0.9 * len(runs) * allowed.sum()


@pytest.mark.parametrize("inter", INTER)
@pytest.mark.parametrize("intra", PATTERNS[1:], ids=lambda intra: intra.intra)
def test_what_is_always_kept(inter: str, intra: AShape) -> None:
    """The row itself and its neighbours in the tile, the first keys, and all keys for the last rows."""
    torch.manual_seed(0)
    place = scene(pictures=((30, 150),), pad=9)
    seen = visible(index([Run(inter, intra)] * 2, place), 2)[0]
    rows = torch.arange(9, 300)
    assert seen[:, rows, rows].all()
    assert (seen[:, :, 9:17] == (torch.arange(9, 17) <= torch.arange(300)[:, None])).all()
    for row in range(150, 300):  # text after the picture
        assert seen[:, row, 9 : row + 1].all()
    assert not seen[:, :, :9].any()
    assert not seen[:, :9].any()


@pytest.mark.parametrize(("end", "first"), [(290, 284), (250, 250), (20, 220)])
def test_how_many_last_rows_see_everything(end: int, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those after the last visual token, no fewer than the least and no more than the most."""
    assert LAST == (64, 1024)
    monkeypatch.setattr(module, "LAST", (16, 80))
    place = scene(300, 300, pictures=((10, end),), block=(1, 16))
    seen = visible(index([Run("none", AShape(0, 1))] * 2, place), 2)[0, 0]
    every = (seen.sum(1) == torch.arange(1, 301)).long()
    assert int(every.flip(0).cumprod(0).sum()) == 300 - first


def test_planted_columns_and_diagonals_are_found() -> None:
    """Two columns and a diagonal that the last rows attend to; other columns and diagonals stay out."""
    length = 512
    score = torch.zeros(length, length)
    score[:, [100, 333]] = 9.0
    away = torch.arange(length)[:, None] - torch.arange(length)
    score[away == 200] = 9.0
    place = planted(scene(length, length, pictures=((1, 2),)), score, 2)
    place = replace(place, visual=torch.ones_like(place.visual), block=(8, 8))
    seen = visible(index([Run("none", VerticalSlash(2, 1, 1))] * 2, place), 2)[0]
    rows = torch.arange(length - LAST[0])
    for column in (100, 333):
        below = rows[rows >= column]
        assert seen[:, below, column].all()
    late = rows[rows >= 200]
    assert seen[:, late, late - 200].all()
    # Column 60 stands in no kept line of rows 300 and up: the diagonal's band is keys 192 to 255 before a row.
    assert not seen[:, 330:, 60].all()


@pytest.mark.parametrize(("stride", "phase"), [(14, 3), (15, 0), (28, 20)])
def test_planted_stride_and_phase_are_found(stride: int, phase: int) -> None:
    """Among a stride, its half and its double, under noise; only places on the grid count."""
    torch.manual_seed(0)
    place = (torch.arange(700) - 50).clamp(min=-1)[None].repeat(2, 1)
    column = torch.rand(2, 3, 700)
    column[:, :, :50] += 50.0  # text, which stands on no grid
    column += 0.5 * ((place >= 0) & (place % stride == phase))[:, None]
    found = find_grid(column, place, (7, 14, 15, 28, 30))
    assert (found[0] == stride).all()
    assert (found[1] == phase).all()


@pytest.mark.parametrize("inter", ["none", "2d"])
def test_a_planted_grid_is_kept(inter: str) -> None:
    """Columns and rows of the grid, found from the scores of the last rows; with a boundary text does not shift it."""
    length, first, stride, phase = 420, 37, 14, 5
    place = scene(length, length, pictures=((first, 200), (230, length)))
    start = 0 if inter == "none" else first
    count = place.visual[0].cumsum(0) - 1 if inter == "2d" else torch.arange(length)
    line = ((count % stride) == phase) & (place.visual[0] if inter == "2d" else torch.ones(length, dtype=torch.bool))
    score = torch.zeros(length, length)
    score[:, line] = 6.0
    place = replace(planted(place, score, 2), strides=(7, 14, 15, 28))
    seen = visible(index([Run(inter, Grid(window=1))] * 2, place), 2)[0]
    rows = torch.arange(start, length)
    rows = rows[place.visual[0, rows]]
    causal = torch.arange(length) <= rows[:, None]
    assert seen[:, rows][:, :, line].eq(causal[:, line]).all()
    lone = rows[line[rows]]
    allowed = torch.arange(length) <= lone[:, None]
    assert seen[:, lone].eq(allowed).all()
    share_seen = seen[:, rows].float().sum() / 2 / causal.float().sum()
    assert share_seen < 0.6


def test_slashes_of_a_grid_are_kept() -> None:
    """Rows and keys of equal remainder see each other."""
    length, stride = 420, 14
    score = torch.zeros(length, length)
    score[:, 3::stride] = 6.0
    place = replace(planted(scene(length, length, pictures=((0, length),)), score, 2), strides=(stride,), block=(8, 8))
    seen = visible(index([Run("none", Grid(columns=False, rows=False, slashes=True))] * 2, place), 2)[0]
    rows = torch.arange(length)
    same = (rows[:, None] % stride == rows % stride) & (rows <= rows[:, None])
    assert (same <= seen).all()
    early = seen[0, : length - LAST[0]]
    assert early.sum() < 0.3 * torch.ones_like(early).tril().sum()


def test_boundaries_choose_for_each_modality() -> None:
    """With one column a head: `none` takes the strongest, `k` one of each modality, `q` and `2d` one for each row's."""
    length = 512
    visual = torch.zeros(1, length, dtype=torch.bool)
    visual[:, 64:448] = True
    score = torch.zeros(length, length)
    score[:, 30], score[:, 100] = 9.0, 8.0  # text, visual
    score[448:, 200] = 10.0  # for text rows alone
    place = replace(planted(scene(length, length, pictures=()), score, 2), visual=visual, block=(8, 8))
    picture, text = torch.arange(300, 384), torch.arange(448, 449)

    def sees(inter: str, column: int, rows: Tensor) -> bool:
        run = Run(inter, VerticalSlash(1, 0, 1))
        return bool(visible(index([run] * 2, place), 2)[0, 0, rows, column].all())

    assert not sees("none", 30, picture)  # the last rows are text, whose strongest column it is not
    assert sees("none", 200, picture)
    assert sees("k", 30, picture)
    assert sees("k", 200, picture)
    assert sees("q", 30, picture)
    assert not sees("q", 100, picture)
    assert not sees("q", 200, picture)
    assert sees("2d", 30, picture)
    assert sees("2d", 100, picture)
    assert not sees("2d", 200, picture)
    assert all(sees(inter, 200, text) for inter in INTER)  # last rows see everything


def test_newlines_belong_to_the_picture() -> None:
    """A lone gap between visual tokens; two side by side are text."""
    place = scene(300, 300, pictures=((10, 40), (41, 80), (82, 120)))
    whole = replace(place, visual=scene(300, 300, pictures=((10, 80), (82, 120))).visual)
    runs = [Run("2d", VerticalSlash(4, 0, 4))] * 2
    assert torch.equal(visible(index(runs, place), 2), visible(index(runs, whole), 2))
    other = replace(place, visual=scene(300, 300, pictures=((10, 120),)).visual)
    assert not torch.equal(visible(index(runs, place), 2), visible(index(runs, other), 2))


@pytest.mark.parametrize("intra", PATTERNS, ids=lambda intra: "dense" if intra is None else intra.intra)
@pytest.mark.parametrize("inter", ["none", "2d"])
def test_predicted_shares_are_near_those_visited(inter: str, intra: AShape | None) -> None:
    """Within a third, at a length of many tiles."""
    torch.manual_seed(0)
    place = replace(scene(4096, 4096, pictures=((100, 4000),), block=(32, 16)), strides=(64,))
    tiles, every = index([Run(inter, intra)] * 2, place), index([Run()] * 2, place)
    visited = int(tiles.visited().sum()) / int(every.visited().sum())
    # The rows after the picture are few; the prediction knows nothing of text.
    assert share(Run(inter, intra), 4096, 4096, (64,), (32, 16)) == pytest.approx(visited, rel=1 / 3)
