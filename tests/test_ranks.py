"""The place of a value in an order, against loops over values of which many are equal."""

from __future__ import annotations

import pytest
import torch

from vtokens.core.ranks import falling_rank, rank, rank_in


def tied(seed: int, *shape: int) -> torch.Tensor:
    """Whole numbers of which many are equal, and infinities."""
    values = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(seed)).float()
    return values.masked_fill(values == 0, -torch.inf).masked_fill(values == 3, torch.inf)


@pytest.mark.parametrize("shape", [(1, 1), (3, 12), (2, 3, 7)])
def test_rank_counts_what_comes_before(shape: tuple[int, ...]) -> None:
    values = tied(0, *shape)
    for row, found in zip(values.flatten(0, -2).tolist(), rank(values).flatten(0, -2).tolist(), strict=True):
        before = [
            sum(other < own or (other == own and i < j) for i, other in enumerate(row)) for j, own in enumerate(row)
        ]
        assert found == before


@pytest.mark.parametrize("shape", [(1, 1), (3, 12), (2, 3, 7)])
def test_what_is_not_valid_comes_last(shape: tuple[int, ...]) -> None:
    scores = tied(1, *shape)
    valid = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.6
    rows = zip(*(part.flatten(0, -2).tolist() for part in (scores, valid, falling_rank(scores, valid))), strict=True)
    for row, real, found in rows:
        order = sorted(range(len(row)), key=lambda at: (not real[at], -row[at], at))
        assert found == [order.index(at) for at in range(len(row))]


def test_each_part_has_an_order_of_its_own() -> None:
    scores, part = tied(3, 4, 20), torch.randint(-1, 3, (4, 20), generator=torch.Generator().manual_seed(4))
    valid = torch.rand(4, 20, generator=torch.Generator().manual_seed(5)) < 0.8
    found = rank_in(part, scores, valid)
    for row in range(4):
        for own in part[row].unique().tolist():
            members = [at for at in range(20) if valid[row, at] and part[row, at] == own]
            order = sorted(members, key=lambda at: (-float(scores[row, at]), at))
            assert [int(found[row, at]) for at in order] == list(range(len(members)))
