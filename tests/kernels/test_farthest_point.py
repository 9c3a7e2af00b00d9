"""`farthest_point` against the definition, written as a loop over steps in float64."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vtokens.kernels import farthest_point

OBJECTIVES = ("maxsum", "kcenter")


def order_of(tokens: np.ndarray, count: int, start: int, objective: str) -> list[int]:
    """The greedy order, recomputing every similarity at every step; ties to the earlier token."""
    norm = np.linalg.norm(tokens, axis=1, keepdims=True)
    unit = tokens / np.where(norm == 0, 1, norm)
    chosen = [start]
    while len(chosen) < count:
        rest = [i for i in range(len(unit)) if i not in chosen]
        similar = {i: [float(unit[i] @ unit[c]) for c in chosen] for i in rest}
        if objective == "maxsum":
            chosen.append(min(rest, key=lambda i: sum(similar[i])))
        else:  # the distance to the nearest centre is the largest where the greatest similarity is the smallest
            chosen.append(max(rest, key=lambda i: min(2 - 2 * s for s in similar[i])))
    return chosen


def pick(tokens: Tensor, counts: list[int], start: list[int], objective: str, sizes: list[int] | None = None) -> Tensor:
    """`farthest_point` on (G, M, D) whose sets hold `sizes` tokens each."""
    valid = torch.ones(tokens.shape[:2], dtype=torch.bool)
    if sizes is not None:
        valid = torch.arange(tokens.shape[1]) < torch.tensor(sizes)[:, None]
    return farthest_point(tokens, valid, counts, torch.tensor(start), objective)


def points(seed: int, *shape: int) -> Tensor:
    """Gaussian tokens."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("objective", "order"), [("maxsum", [0, 2, 3, 1]), ("kcenter", [0, 2, 1, 3])])
def test_four_unit_vectors(objective: str, order: list[int]) -> None:
    """At 0, 100, 170 and 200 degrees from pivot 0: the summed cosines of 100 and 200 are .17 and -.07, the largest .34
    and .87, so max-sum goes on with 200 degrees and farthest-first with 100.

    With 180 for 170, as the example is sometimes given, the two chosen vectors cancel and all sums tie at zero.
    """
    angle = torch.deg2rad(torch.tensor([0.0, 100.0, 170.0, 200.0]))
    tokens = torch.stack([angle.cos(), angle.sin()], 1)[None]
    for count in range(1, len(order) + 1):
        assert pick(tokens, [count], [0], objective)[0].nonzero().flatten().tolist() == sorted(order[:count])


@pytest.mark.parametrize(("objective", "orders"), [("maxsum", [[0, 2, 1], [0, 2, 3]]), ("kcenter", [[0, 2, 1]])])
def test_four_unit_vectors_with_opposites(objective: str, orders: list[list[int]]) -> None:
    """At 0, 100, 180 and 200 degrees: 180 is second; third is 100 for farthest-first, a tie for max-sum."""
    angle = torch.deg2rad(torch.tensor([0.0, 100.0, 180.0, 200.0]))
    tokens = torch.stack([angle.cos(), angle.sin()], 1)[None]
    for count in (2, 3):
        got = pick(tokens, [count], [0], objective)[0].nonzero().flatten().tolist()
        assert got in [sorted(order[:count]) for order in orders]


@given(st.integers(0, 99999), st.integers(1, 4), st.sampled_from(OBJECTIVES), st.data())
def test_ragged_sets_equal_the_definition(seed: int, groups: int, objective: str, data: st.DataObject) -> None:
    """Sets of different sizes with different counts and starts choose what each chooses alone by the definition."""
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=groups, max_size=groups))
    counts = [data.draw(st.integers(0, size)) for size in sizes]
    start = [data.draw(st.integers(0, size - 1)) for size in sizes]
    tokens = points(seed, groups, max(sizes), 5)
    got = pick(tokens, counts, start, objective, sizes)
    for row, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        expected = order_of(tokens[row, :size].double().numpy(), count, start[row], objective)[:count]
        assert got[row].nonzero().flatten().tolist() == sorted(expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_is_the_start_and_all_is_all(objective: str) -> None:
    """k=1 keeps the first token given, k=N everything."""
    tokens = points(3, 2, 9, 4)
    assert pick(tokens, [1, 1], [4, 7], objective).nonzero().tolist() == [[0, 4], [1, 7]]
    assert pick(tokens, [9, 9], [4, 7], objective).all()
    assert pick(tokens, [9, 5], [4, 2], objective, sizes=[9, 5]).sum(1).tolist() == [9, 5]


@given(st.integers(0, 99999), st.sampled_from(OBJECTIVES))
def test_length_of_a_token_does_not_matter(seed: int, objective: str) -> None:
    """Positive rescaling of each token leaves the choice alone; powers of two keep even the rounding."""
    tokens = points(seed, 2, 10, 6)
    factor = 2.0 ** torch.randint(-12, 12, (2, 10, 1), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(pick(tokens, [4, 6], [1, 2], objective), pick(tokens * factor, [4, 6], [1, 2], objective))


@given(st.integers(0, 99999), st.integers(1, 8))
def test_farthest_first_is_within_twice_the_best_radius(seed: int, count: int) -> None:
    """Gonzalez' bound in the chord metric, the best radius found by trying every set of centres."""
    tokens = points(seed, 1, 8, 3)
    unit = torch.nn.functional.normalize(tokens[0].double(), dim=-1)
    chord = (2 - 2 * unit @ unit.T).clamp(min=0).sqrt().numpy()
    centres = pick(tokens, [count], [0], "kcenter")[0].nonzero().flatten().tolist()
    best = min(chord[:, list(c)].min(1).max() for c in itertools.combinations(range(8), count))
    assert chord[:, centres].min(1).max() <= 2 * best + 1e-6


@given(st.integers(0, 99999))
def test_prefixes_are_nested(seed: int) -> None:
    """Greedy choices only grow: the set of k contains the set of k - 1, as an incremental sum must give."""
    tokens = points(seed, 1, 14, 5)
    for objective in OBJECTIVES:
        before = pick(tokens, [1], [3], objective)
        for count in range(2, 15):
            now = pick(tokens, [count], [3], objective)
            assert now.sum() == count
            assert bool((now | ~before).all())
            before = now


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_long_sums_stay_exact(objective: str) -> None:
    """After 150 steps the running cost still picks what recomputing it in float64 picks."""
    tokens = points(11, 1, 200, 32)
    expected = order_of(tokens[0].double().numpy(), 150, 17, objective)
    assert pick(tokens, [150], [17], objective)[0].nonzero().flatten().tolist() == sorted(expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_large_sets_do_without_the_similarity_matrix(objective: str) -> None:
    """Beyond 8192 slots similarities come a row at a time; the same tokens in a smaller frame choose the same."""
    tokens = points(5, 2, 60, 8)
    wide = torch.cat([tokens, points(6, 2, 8200, 8)], 1)
    assert torch.equal(
        pick(wide, [20, 33], [3, 50], objective, sizes=[60, 45])[:, :60],
        pick(tokens, [20, 33], [3, 50], objective, sizes=[60, 45]),
    )
    assert not pick(wide, [20, 33], [3, 50], objective, sizes=[60, 45])[:, 60:].any()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equal_and_zero_tokens(objective: str) -> None:
    """Copies tie, and the earlier goes first; a zero vector resembles nothing and is no NaN."""
    copies = torch.ones(1, 5, 3)
    assert pick(copies, [3], [2], objective)[0].tolist() == [True, True, True, False, False]
    tokens = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 0.0], [0.8, 0.2]]])
    assert pick(tokens, [2], [0], objective)[0].tolist() == [True, False, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tokens_are_compared_in_float32(dtype: torch.dtype) -> None:
    """What is chosen is what the same rounded values choose in float64."""
    tokens = points(8, 1, 30, 16).to(dtype)
    for objective in OBJECTIVES:
        expected = order_of(tokens[0].double().numpy(), 12, 0, objective)
        assert pick(tokens, [12], [0], objective)[0].nonzero().flatten().tolist() == sorted(expected)
