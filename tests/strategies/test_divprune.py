"""`divprune` against a loop over all pairs, the worked example, and what greedy max-min promises."""

from itertools import combinations

import numpy as np
import pytest
import torch

from tests.strategies import invariants
from tests.strategies.invariants import drawn, numbers, phi, picks
from vtokens.strategies.prune import divprune


def naive(unit: np.ndarray, count: int) -> list[int]:
    """The greedy order in float64, every distance anew at every step."""
    distance = 1 - unit @ unit.T
    size = len(unit)
    chosen = [max(range(size), key=lambda i: min(distance[i, j] for j in range(size) if j != i))]
    while len(chosen) < count:
        rest = [i for i in range(size) if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(distance[i, j] for j in chosen)))
    return chosen


def test_the_worked_example() -> None:
    """Unit vectors at 0, 10, 80, 90, 200, 210 degrees: all nearest neighbours are 10 degrees away, so 0 is first."""
    orders = [set(picks(f"divprune(keep={count})", phi())[0]) for count in (1, 2, 3)]
    assert [sorted(new - old) for old, new in zip([set(), *orders], orders, strict=False)] == [[0], [4], [3]]


@pytest.mark.parametrize("count", [1, 5, 20])
def test_it_is_the_greedy_loop(count: int) -> None:
    for seed in range(4):
        picture = drawn(seed, 31)
        assert picks(f"divprune(keep={count})", picture) == [sorted(naive(numbers(picture)[0], count))]


def test_two_tokens_are_within_half_of_the_best_spread() -> None:
    """The greedy answer's least angle (a metric) is at least half of the best subset's."""
    for seed in range(5):
        unit = numbers(drawn(seed, 10, width=3))[0]
        (found,) = picks("divprune(keep=4)", drawn(seed, 10, width=3))
        angle = np.arccos((unit @ unit.T).clip(-1, 1))
        spread = {some: min(angle[i, j] for i, j in combinations(some, 2)) for some in combinations(range(10), 4)}
        assert spread[tuple(found)] >= max(spread.values()) / 2


def test_equal_tokens_are_not_chosen_twice() -> None:
    """Where fewer tokens differ than are kept, the rest are others, never one again."""
    picture = drawn(0, 12)
    same = picture.at(torch.tensor([0, 1, 2] * 4))
    (found,) = picks("divprune(keep=7)", same)
    assert len(found) == 7
    assert {one % 3 for one in found} == {0, 1, 2}


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearest neighbours are the same however many rows are compared at once."""
    whole = picks("divprune(keep=6)", drawn(1, 23), drawn(2, 14))
    monkeypatch.setattr(divprune, "_AT_ONCE", 100)
    assert picks("divprune(keep=6)", drawn(1, 23), drawn(2, 14)) == whole


def test_invariants() -> None:
    invariants.hold("divprune(keep=5)")
    invariants.spoilt_go_first("divprune", drawn(6, 19))
    invariants.keeps_all("divprune")
