"""`random` and `uniform`: exact counts, an even spread, and independence of the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.families import FAMILIES, image, inputs
from tests.strategies.helpers import kept, pair, report, three_rows
from vtokens.core.budget import budget
from vtokens.core.layout import Layout
from vtokens.core.picture import Picture
from vtokens.strategies import Visuals
from vtokens.strategies.prune.random import Random
from vtokens.strategies.prune.uniform import even_grid

SIZES = st.integers(1, 30)


@given(SIZES, SIZES, st.data())
def test_any_grid_and_any_count_are_met_exactly(height: int, width: int, data: st.DataObject) -> None:
    """Exactly the number asked for; filled rows differ by at most one token, and so do the steps within a row."""
    keep = data.draw(st.integers(1, height * width))
    grid = even_grid(Picture.of([(1, height, width)], [False]), keep).reshape(height, width)
    assert grid.sum() == keep
    rows = grid.sum(1)
    assert rows[rows > 0].max() - rows[rows > 0].min() <= 1
    for row in grid[rows > 1]:
        steps = np.diff(np.flatnonzero(row))
        assert steps.max() - steps.min() <= 1
    if keep >= height:  # enough for steps between rows to be even as well
        steps = np.diff(np.flatnonzero(rows), prepend=-1, append=height)
        assert steps.max() <= np.ceil(height / (rows > 0).sum()) + 1


@given(st.integers(1, 15), st.integers(1, 15), st.data())
def test_every_quadrant_gets_its_share(half_height: int, half_width: int, data: st.DataObject) -> None:
    """Halves of the grid differ from half the budget by at most one token a filled row, or one row."""
    height, width = 2 * half_height, 2 * half_width
    keep = data.draw(st.integers(1, height * width))
    grid = even_grid(Picture.of([(1, height, width)], [False]), keep).reshape(height, width)
    rows = grid.sum(1)
    fullest, filled = rows.max(), (rows > 0).sum()
    assert abs(grid[:half_height].sum() - keep / 2) <= fullest
    assert abs(grid[:, :half_width].sum() - keep / 2) <= filled / 2 + 0.5
    for quadrant in (grid[:half_height, :half_width], grid[half_height:, half_width:]):
        assert abs(quadrant.sum() - keep / 4) <= fullest / 2 + filled / 2 + 1


def test_a_quarter_of_a_square_is_every_second_row_and_column() -> None:
    """144 of 24 x 24: the grid anybody would draw."""
    grid = even_grid(Picture.of([(1, 24, 24)], [False]), 144).reshape(24, 24)
    rows, columns = grid.any(1), grid.any(0)
    assert rows.sum() == columns.sum() == 12
    assert np.array_equal(grid, rows[:, None] & columns)
    assert set(np.diff(np.flatnonzero(rows))) == set(np.diff(np.flatnonzero(columns))) == {2}


@given(st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=3), st.integers(1, 5), st.data())
def test_views_and_frames_share_by_their_size(shapes: list[tuple[int, int]], frames: int, data: st.DataObject) -> None:
    """A thumbnail, tiles and frames each get their share of the budget to within a token, and the total is exact."""
    grids = [(frames, h, w) for h, w in shapes]
    picture = Picture.of(grids, [index > 0 for index in range(len(grids))])
    keep = data.draw(st.integers(1, picture.tokens))
    chosen = even_grid(picture, keep)
    assert chosen.sum() == keep
    first = 0
    for t, h, w in grids:
        for _ in range(t):
            share = keep * h * w / picture.tokens
            assert abs(chosen[first : first + h * w].sum() - share) <= 1
            first += h * w
    assert first == len(chosen)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", ["random", "uniform"])
@pytest.mark.parametrize("keep", [1, 3, 0.1, 0.5, 0.77])
def test_counts_on_models(family: str, strategy: str, keep: float) -> None:
    """Each picture of a ragged batch keeps what the budget says, in every layer."""
    model, batch = pair(family)[0], three_rows(family)
    samples = report(model, batch, f"{strategy}(keep={keep})").samples
    for sample in samples:
        for part in sample.pictures:
            assert {len(ranks) for ranks in part.kept} == {budget(part.picture.tokens, keep)}
        assert sample.visual_tokens[0] == sum(budget(part.picture.tokens, keep) for part in sample.pictures)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", ["random(keep=0.4, seed=3)", "uniform(keep=0.4)"])
def test_a_row_is_pruned_as_it_would_be_alone(family: str, strategy: str) -> None:
    """Batching and padding change nothing."""
    model, processor = pair(family)
    together = kept(model, three_rows(family), strategy)
    alone = kept(model, inputs(processor, ["Is there a cat?"], [[image(100, 60, seed=0)]]), strategy)
    twice = ["Compare <image> with <image> please, and say which one is red"]
    alone += kept(model, inputs(processor, twice, [[image(84, 112, seed=1), image(84, 84, seed=2)]]), strategy)
    assert together == alone


def test_seeds() -> None:
    """The same seed gives the same choice on every call, other seeds others, and torch's own state does not move."""
    model, batch = pair("llava")[0], three_rows("llava")
    before = torch.get_rng_state()
    choices = [kept(model, batch, f"random(keep=8, seed={seed})")[0] for seed in range(20)]
    assert torch.equal(before, torch.get_rng_state())
    assert choices[7] == kept(model, batch, "random(keep=8, seed=7)")[0]
    assert len({tuple(choice) for choice in choices}) > 15
    torch.manual_seed(99)
    assert choices[0] == kept(model, batch, "random(keep=8)")[0]


def test_random_is_even_over_seeds() -> None:
    """Over 400 seeds each of 16 tokens is kept about half of the time: within five standard deviations (50)."""
    visual = torch.ones(1, 16, dtype=torch.bool)
    layout = Layout.build({"image": visual}, {"image": [Picture.of([(1, 4, 4)], [False])]}, visual)
    visuals = Visuals(torch.zeros(1, 16, 8), layout, "image", observed=None)  # type: ignore[arg-type]
    hits = torch.stack([Random(keep=8, seed=seed).at_prompt(visuals).keep[0] for seed in range(400)]).sum(0)
    assert int(hits.sum()) == 400 * 8
    assert (hits - 200).abs().max() < 50


@pytest.mark.parametrize("family", FAMILIES)
def test_uniform_after_another_strategy_thins_what_is_left(family: str) -> None:
    """It keeps every n-th of the survivors: a subset, of the right size, ends included."""
    model, batch = pair(family)[0], three_rows(family)
    first, both = kept(model, batch, "cls(keep=6)"), kept(model, batch, "cls(keep=6)+uniform(keep=3)")
    for survivors, ranks in zip(first, both, strict=True):
        assert ranks == [survivors[1], survivors[3], survivors[5]]


def test_uniform_covers_thumbnail_and_tiles() -> None:
    """An AnyRes picture of 16 + 32 tokens at a quarter: 4 of the thumbnail, 8 of the tiles."""
    model, processor = pair("llava_next")
    sample = report(model, inputs(processor, ["x"], [[image(112, 56, seed=0)]]), "uniform(keep=0.25)").samples[0]
    part = sample.pictures[0]
    views = part.picture.view[part.kept[0]]
    assert (part.picture.tokens, (views == 0).sum(), (views == 1).sum()) == (48, 4, 8)
