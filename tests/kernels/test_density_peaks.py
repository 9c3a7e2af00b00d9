"""Density peaks against a loop over pairs, in float64."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.limits import close
from vtokens.kernels import density_peaks


def peaks(tokens: list[Tensor], neighbours: int = 4) -> list[float]:
    """Density times distance from the nearest denser one, pair by pair."""
    apart = [[float((a - b).norm()) / len(a) ** 0.5 for b in tokens] for a in tokens]
    density = [math.exp(-sum(d * d for d in sorted(row)[:neighbours]) / len(row[:neighbours])) for row in apart]
    largest = max((max(row) for row in apart), default=0.0)
    found = []
    for n, row in enumerate(apart):
        denser = [d for m, d in enumerate(row) if (density[m], -m) > (density[n], -n)]
        found.append(density[n] * min(denser, default=largest))
    return found


@given(st.integers(1, 3), st.integers(1, 8), st.integers(1, 9), st.integers(0, 99))
def test_sets_with_padding_anywhere(sets: int, most: int, neighbours: int, seed: int) -> None:
    """Each set as if its real tokens were alone; more neighbours than tokens are all of them."""
    generator = torch.Generator().manual_seed(seed)
    tokens, valid = torch.randn(sets, most, 5, generator=generator), torch.rand(sets, most, generator=generator) < 0.7
    found = density_peaks(tokens, valid, neighbours)
    assert (found[~valid] == -torch.inf).all()
    for own, real, got in zip(tokens.double(), valid, found, strict=True):
        expected = torch.tensor(peaks([*own[real]], neighbours), dtype=torch.float64)
        close(got[real], expected, terms=5 * most, size=4.0)


def test_of_equal_tokens_the_earlier_is_denser() -> None:
    """A pair of clumps: the first token of either is its centre, whatever rounding leaves between equal ones."""
    clump = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0)).expand(-1, 4, -1).reshape(1, 8, 64)
    found = density_peaks(clump, torch.ones(1, 8, dtype=torch.bool), 4)
    assert sorted(found[0].topk(2).indices.tolist()) == [0, 4]
    assert (found[0, [1, 2, 3, 5, 6, 7]] == 0).all()
