"""From lines to tiles: every pair that a pattern keeps is in a tile, and tiles without one are not visited."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.sparse import visible
from vtokens.tables.patterns import cover as module
from vtokens.tables.patterns.cover import arrange, cover
from vtokens.tables.patterns.index import join
from vtokens.tables.patterns.lines import Ground, Lines, Ranks


@st.composite
def cases(draw: st.DrawFn) -> tuple[Lines, Ground]:
    """Random lines on random ground: padding, groups, rows of one modality, lone rows, diagonals, ranks."""
    torch.manual_seed(draw(st.integers(0, 9999)))
    batch, plans, rows = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 150))
    offset, groups = draw(st.sampled_from([0, 0, 40])), draw(st.integers(1, 2))
    keys = rows + offset
    valid = torch.ones(batch, keys, dtype=torch.bool)
    if draw(st.booleans()):
        valid[0, : draw(st.integers(0, keys - 1))] = False
    group = torch.randint(0, groups, (batch, keys)).masked_fill(~valid, -1)
    chosen = torch.rand(batch, rows) < draw(st.sampled_from([0.2, 1.0]))
    block = draw(st.sampled_from([8, 16])), draw(st.sampled_from([4, 16]))
    ground = Ground(chosen & valid[:, offset:], group, groups, valid.cumsum(1) - 1, offset, block)
    columns = torch.rand(batch, plans, keys) < draw(st.sampled_from([0.0, 0.1]))
    lone = torch.rand(batch, plans, rows) < draw(st.sampled_from([0.0, 0.05]))
    bands = torch.randint(-1, -(-keys // 64), (batch, plans, groups, draw(st.integers(0, 2))))
    window, ranks = draw(st.sampled_from([1, 5, 30])), None
    if draw(st.integers(0, 3)) == 0:
        bands, window, size = bands[..., :0], 1, draw(st.integers(2, 20))
        rank = torch.arange(keys).expand(batch, plans, -1) % size
        ranks = Ranks(rank[..., offset:], rank, size, -(-keys // size))
    return Lines(columns, lone, bands, window, int(columns.sum(-1).max()), ranks), ground


def wanted(lines: Lines, ground: Ground) -> Tensor:
    """bool (B, P, M, N): the pairs that the lines keep, one condition after another."""
    rows, keys = lines.rows.shape[2], lines.columns.shape[2]
    away = (torch.arange(rows) + ground.offset)[:, None] - torch.arange(keys)
    kept = lines.columns[:, :, None] | lines.rows[..., None]
    if lines.ranks is None:
        kept = kept | ((away >= 0) & (away < lines.window))
        for number in range(ground.groups):
            mine = (ground.group == number)[:, None, None]
            for band in lines.bands[:, :, number].unbind(-1):
                hit = (away // 64 == band[..., None, None]) & (band >= 0)[..., None, None] & (away >= 0)
                kept = kept | (hit & mine)
    else:
        kept = kept | (lines.ranks.row[..., None] == lines.ranks.key[:, :, None])
    there = ground.row[:, None, :, None] & (ground.group >= 0)[:, None, None]
    return kept & there & (away >= 0)


@given(cases())
def test_every_kept_pair_is_in_a_tile(case: tuple[Lines, Ground]) -> None:
    """Whatever the lines: no list is too short, and pairs outside of the ground are in none."""
    lines, ground = case
    plans = lines.columns.shape[1]
    seen = visible(join(cover(lines, ground, range(plans))), plans)
    assert (wanted(lines, ground) <= seen).all()
    there = ground.row[:, None, :, None] & (ground.group >= 0)[:, None, None]
    assert not (seen & ~there).any()


@pytest.mark.parametrize("window", [1, 16, 40])
def test_tiles_without_a_kept_pair_are_not_visited(window: int) -> None:
    """On rows side by side, with the first tile's keys as columns and two diagonals."""
    keys, block = 512, (16, 16)
    columns = (torch.arange(keys) < 16).expand(1, 1, -1)
    ground = Ground(
        torch.ones(1, keys, dtype=torch.bool), torch.zeros(1, keys, dtype=torch.long), 1, columns[0], 0, block
    )
    lines = Lines(columns, torch.zeros(1, 1, keys, dtype=torch.bool), torch.tensor([[[[2, 5]]]]), window, 16)
    tiles = cover(lines, ground, [0])[0]
    needed = wanted(lines, ground).view(1, 1, 32, 16, 32, 16).any(5).any(3)
    assert int(tiles.count.sum()) == int(needed.sum())
    assert not (tiles.start[tiles.count > 0] < 0).any()


def test_rows_far_apart_see_everything() -> None:
    """A query tile whose rows would need more tiles than a list has room for."""
    row = torch.zeros(1, 400, dtype=torch.bool)
    row[0, ::50] = True
    ground = Ground(row, torch.zeros(1, 400, dtype=torch.long), 1, torch.zeros(1, 400, dtype=torch.long), 0, (16, 16))
    none = torch.zeros(1, 1, 400, dtype=torch.bool)
    tiles = cover(Lines(none, none, torch.zeros(1, 1, 1, 0, dtype=torch.long), 1, 0), ground, [0])[0]
    assert (tiles.start[tiles.count > 0] < 0).all()
    rows = row[0].nonzero().flatten()
    assert torch.equal(visible(tiles, 1)[0, 0, rows], torch.arange(400) <= rows[:, None])


def test_plans_are_covered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few at a time where lists are many; together they are the same."""
    torch.manual_seed(0)
    group = torch.zeros(1, 100, dtype=torch.long)
    ground = Ground(torch.ones(1, 100, dtype=torch.bool), group, 1, group, 0, (16, 16))
    columns, lone = torch.rand(1, 5, 100) < 0.1, torch.rand(1, 5, 100) < 0.02
    lines = Lines(columns, lone, torch.zeros(1, 5, 1, 1, dtype=torch.long), 8, 100)
    whole = visible(join(cover(lines, ground, (4, 0, 1, 3, 2))), 5)
    monkeypatch.setattr(module, "_SORTED", 1)
    parts = cover(lines, ground, (4, 0, 1, 3, 2))
    assert len(parts) == 5
    assert torch.equal(visible(join(parts), 5), whole)


@given(st.integers(0, 9999), st.integers(1, 4), st.integers(1, 60), st.booleans())
def test_slots_hold_each_position_once(seed: int, regions: int, length: int, ranked: bool) -> None:
    """Regions one after another from the beginning of a tile, each in order of rank and of the sequence."""
    torch.manual_seed(seed)
    region = torch.randint(-1, regions, (2, 3, length))
    rank = torch.randint(0, 5, (2, 3, length)) if ranked else None
    slot, base = arrange(region, regions, 8, rank)
    assert (base % 8 == 0).all()
    for b in range(2):
        for plan in range(3):
            flat = slot[b, plan].flatten()
            assert sorted(flat[flat >= 0].tolist()) == (region[b, plan] >= 0).nonzero().flatten().tolist()
            for number in range(regions):
                inside = flat[base[b, plan, number] : base[b, plan, number + 1]]
                places = (region[b, plan] == number).nonzero().flatten()
                if rank is not None:
                    places = places[rank[b, plan, places].argsort(stable=True)]
                assert inside.tolist() == places.tolist() + [-1] * (-len(places) % 8)
