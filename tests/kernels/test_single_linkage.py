"""Spanning trees and what edges connect, against Kruskal's algorithm over all pairs, in float64."""

from __future__ import annotations

from itertools import combinations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from tests.limits import close
from vtokens.kernels import TIE, linked, single_linkage, spanning_tree


def cosine(a: Tensor, b: Tensor) -> float:
    """Within rounding of 1 they are 1."""
    found = float(torch.cosine_similarity(a, b, dim=0))
    return 1.0 if found > 1 - TIE else found


def kruskal(x: list[Tensor]) -> list[tuple[float, int, int]]:
    """Edges of the largest spanning tree under cosine, falling; of equal cosines the earlier tokens' first."""
    edges = sorted((-cosine(x[a], x[b]), a, b) for a, b in combinations(range(len(x)), 2))
    part, found = list(range(len(x))), []
    for like, a, b in edges:
        if part[a] != part[b]:
            found.append((-like, a, b))
            part = [part[a] if p == part[b] else p for p in part]
    return found


def clusters(edges: list[tuple[float, int, int]], size: int) -> list[int]:
    """The first member of each token's cluster."""
    part = list(range(size))
    for _, a, b in edges:
        low, high = sorted((part[a], part[b]))
        part = [low if p == high else p for p in part]
    return part


@given(st.integers(1, 3), st.integers(1, 12), st.integers(0, 99), st.booleans())
def test_trees_of_sets_with_padding_anywhere(sets: int, most: int, seed: int, repeats: bool) -> None:
    """Each set as if its real tokens were alone, some of which are equal; cut at any number of clusters."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sets, most, 6, generator=generator)
    if repeats:
        x = x[:, torch.randint(0, most, (most,), generator=generator)]
    valid = torch.rand(sets, most, generator=generator) < 0.8
    tree = spanning_tree(normalize(x, dim=-1), valid)
    for row in range(sets):
        places = valid[row].nonzero().flatten().tolist()
        edges = kruskal([*x[row].double()[places]])
        weight = tree.weight[row].sort(descending=True).values
        assert int(weight.isfinite().sum()) == len(edges)
        expected = torch.tensor([like for like, _, _ in edges], dtype=torch.float64)
        close(weight[: len(edges)], expected, terms=64, size=1.0)
        for count in range(len(edges) + 1):
            on = tree.weight.argsort(dim=1, descending=True, stable=True).argsort(1)[row] < count
            got = linked(tree, on[None].expand(sets, -1) & tree.weight.isfinite())[row]
            own = clusters(edges[:count], len(places))
            if not repeats:  # equal tokens may be connected over each other
                assert got[places].tolist() == [places[n] for n in own]
            assert len(set(got[places].tolist())) == len(places) - count


def test_in_parts_as_at_once(monkeypatch) -> None:
    """Cosines that do not fit into memory at once."""
    x = normalize(torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(1)), dim=-1)
    valid = torch.ones(2, 9, dtype=torch.bool)
    whole = spanning_tree(x, valid)
    monkeypatch.setattr(single_linkage, "_ROOM", 40)
    parts = spanning_tree(x, valid)
    assert torch.equal(whole.first, parts.first)
    assert torch.equal(whole.second, parts.second)
