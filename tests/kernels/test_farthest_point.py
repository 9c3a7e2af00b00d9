"""`farthest_point` against the definition, written as a loop over steps in float64."""

import importlib
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vtokens.kernels import _greedy, farthest_point, first_most

module = importlib.import_module("vtokens.kernels.farthest_point")  # the name in the package is the function
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
@pytest.mark.parametrize("foresight", [False, True])
def test_long_sums_stay_exact(objective: str, foresight: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 150 steps the running cost still picks what recomputing it in float64 picks."""
    if foresight:
        monkeypatch.setattr(_greedy, "_IN_CACHE", 0)
    tokens = points(11, 1, 200, 32)
    expected = order_of(tokens[0].double().numpy(), 150, 17, objective)
    assert pick(tokens, [150], [17], objective)[0].nonzero().flatten().tolist() == sorted(expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("gram", [1 << 28, 0])
def test_all_sets_at_once(objective: str, gram: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What plain PyTorch does on an accelerator, with all similarities or a row of them at a time."""
    monkeypatch.setattr(module, "_GRAM", gram)
    tokens, valid = points(5, 3, 60, 8), torch.ones(3, 60, dtype=torch.bool)
    valid[1, 45:] = valid[2, :20] = False
    counts, start = [20, 33, 0], torch.tensor([3, 40, 50])
    got = module._together(tokens, valid, counts, start, objective == "kcenter")
    for row, (count, first) in enumerate(zip(counts, start.tolist(), strict=True)):
        rest = tokens[row, valid[row]].double().numpy()
        place = valid[row].nonzero()[:, 0]
        order = order_of(rest, count, int((place < first).sum()), objective)[:count]
        assert got[row].nonzero()[:, 0].tolist() == sorted(place[order].tolist())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("near", [False, True])
def test_choices_foreseen_wrongly_are_mended(objective: str, near: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of a few tokens misses most choices, and the order stays the definition's; copies of tokens too."""
    for name, least in (("_FEWEST", 3), ("_NEAR", 0), ("_IN_CACHE", 0)):
        monkeypatch.setattr(_greedy, name, least)
    tokens = points(4, 90, 6)
    if near:
        tokens[30:60] = tokens[:30] * 2
    expected = order_of(tokens.double().numpy(), 60, 7, objective)
    if near:  # a token and its copy tie but for rounding: compare what was chosen, not which of the two
        got = [i % 30 if i < 60 else i for i in _greedy.greedy(tokens, 30, 7, objective == "kcenter").tolist()]
        assert got == [i % 30 if i < 60 else i for i in expected[:30]]
        return
    assert _greedy.greedy(tokens, 60, 7, objective == "kcenter").tolist() == expected


@pytest.mark.parametrize("way", ["each", "foreseen", "together"])
def test_distances_times_weights(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighted k-center against its definition; what weighs nothing comes last, and nothing twice."""
    monkeypatch.setattr(_greedy, "_IN_CACHE", 0 if way == "foreseen" else 1 << 18)
    tokens, valid = points(8, 2, 70, 6), torch.ones(2, 70, dtype=torch.bool)
    valid[1, 50:] = False
    weight = points(9, 2, 70).abs()
    weight[:, ::7] = 0
    start, counts = torch.tensor([4, 9]), [55, 48]
    run = module._together if way == "together" else module._one_by_one
    got = run(tokens, valid, counts, start, True, weight.clamp(min=module._LIGHTEST))
    assert torch.equal(got, farthest_point(tokens, valid, counts, start, "kcenter", weight))
    for row, (size, count) in enumerate(((70, 55), (50, 48))):
        unit = torch.nn.functional.normalize(tokens[row, :size].double(), dim=-1).numpy()
        distance, factor = 1 - unit @ unit.T, weight[row, :size].clamp(min=1e-30).double().numpy()
        chosen = [int(start[row])]
        while len(chosen) < count:
            score = distance[:, chosen].min(1) * factor
            score[chosen] = -1
            chosen.append(int(score.argmax()))
        assert got[row].nonzero()[:, 0].tolist() == sorted(chosen)


def test_weights_that_do_not_fit_are_refused() -> None:
    tokens, valid = points(0, 1, 5, 3), torch.ones(1, 5, dtype=torch.bool)
    for objective, weight in (("maxsum", torch.ones(1, 5)), ("kcenter", torch.ones(1, 4))):
        with pytest.raises(ValueError, match=r"weight .* is allowed beside 'kcenter'"):
            farthest_point(tokens, valid, [2], torch.tensor([0]), objective, weight)  # type: ignore[arg-type]


def test_few_passes_over_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens in clusters: most choices are foreseen, so all tokens are read a tenth as often as there are choices."""
    passes = []
    monkeypatch.setattr(_greedy, "_IN_CACHE", 0)
    cosines = _greedy._cosines

    def counted(tokens: Tensor, scale: Tensor, some: np.ndarray, rooms: tuple[Tensor, Tensor]) -> np.ndarray:
        passes.append(len(some))
        return cosines(tokens, scale, some, rooms)

    monkeypatch.setattr(_greedy, "_cosines", counted)
    centres = points(1, 40, 32)
    tokens = (
        centres[torch.randint(0, 40, (2000,), generator=torch.Generator().manual_seed(2))] + points(3, 2000, 32) / 2
    )
    _greedy.greedy(tokens, 200, 5, kcenter=True)
    assert len(passes) <= 20
    assert sum(passes) <= 400


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"objective": "kcentre"}, ValueError, "unknown objective 'kcentre'. Did you mean 'kcenter'"),
        ({"counts": [3, 8]}, ValueError, "counts are 3 to 8: 0 to 7 is allowed"),
        ({"counts": [-1, 2]}, ValueError, "counts are -1 to 2"),
        ({"counts": [3]}, ValueError, "do not fit"),
        ({"start": torch.tensor(0)}, ValueError, "do not fit"),
        ({"valid": torch.ones(2, 8, dtype=torch.bool)}, ValueError, "do not fit"),
        ({"tokens": torch.ones(2, 7, 3, dtype=torch.long)}, TypeError, r"tokens are torch\.int64"),
        ({"valid": torch.ones(2, 7)}, TypeError, r"valid is torch\.float32"),
        ({"start": torch.tensor([0, 6])}, ValueError, "set 1 is to give 2 tokens, 6 the first: it has 5 valid ones"),
        ({"counts": [3, 6]}, ValueError, "set 1 is to give 6 tokens"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict, error: type[Exception], message: str) -> None:
    """Each with what is allowed; the same call without the change is fine."""
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[1, 5:] = False
    given = {"tokens": points(0, 2, 7, 3), "valid": valid, "counts": [3, 2], "start": torch.tensor([0, 4])}
    assert farthest_point(**given).sum(1).tolist() == [3, 2]
    with pytest.raises(error, match=message):
        farthest_point(**(given | changed))


def test_nothing_to_choose() -> None:
    """No sets, no tokens, counts of zero."""
    for groups, most in ((0, 5), (2, 0), (2, 5)):
        valid = torch.ones(groups, most, dtype=torch.bool)
        got = farthest_point(torch.ones(groups, most, 3), valid, [0] * groups, torch.zeros(groups, dtype=torch.long))
        assert got.shape == (groups, most)
        assert not got.any()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equal_and_zero_tokens(objective: str) -> None:
    """Copies tie, and the earlier goes first; a zero vector resembles nothing and is no NaN."""
    copies = torch.ones(1, 5, 3)
    assert pick(copies, [3], [2], objective)[0].tolist() == [True, True, True, False, False]
    tokens = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 0.0], [0.8, 0.2]]])
    assert pick(tokens, [2], [0], objective)[0].tolist() == [True, False, True, False]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_more_equal_tokens_than_are_looked_ahead_at(objective: str) -> None:
    """A blank picture, too wide to be compared choice by choice: the earliest of its tokens, in their order."""
    blank = torch.ones(600, 1024)  # of length 32, so that no product is rounded, in whatever order it is summed
    assert blank.numel() > _greedy._IN_CACHE
    assert _greedy.greedy(blank, 40, 17, objective == "kcenter").tolist() == [17, *range(17), *range(18, 40)]
    assert pick(blank[None], [5], [590], objective)[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 590]


def flat(tokens: int, width: int, seed: int) -> Tensor:
    """(M, D): one direction, as rounding leaves it otherwise in each token."""
    noise = torch.randint(-2, 3, (tokens, width), generator=torch.Generator().manual_seed(seed))
    return points(1, 1, width) * (1 + torch.finfo(torch.float32).eps * noise)


@pytest.mark.parametrize("objective", ["maxsum", "kcenter"])
@pytest.mark.parametrize("way", ["each", "foreseen", "together", "row by row"])
def test_rounding_chooses_nothing_of_a_flat_picture(way: str, objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that are equal up to rounding count as equal ones, so that a row of a batch is chosen from as alone."""
    monkeypatch.setattr(_greedy, "_IN_CACHE", 0 if way == "foreseen" else 1 << 19)
    monkeypatch.setattr(module, "_GRAM", 0 if way == "row by row" else 1 << 28)
    run = module._one_by_one if way in ("each", "foreseen") else module._together
    for seed in range(3):
        tokens, valid = flat(300, 40, seed)[None], torch.ones(1, 300, dtype=torch.bool)
        got = run(tokens, valid, [90], torch.tensor([120]), objective == "kcenter", None)
        assert got[0].nonzero()[:, 0].tolist() == [*range(89), 120]


def test_the_first_of_the_largest_whatever_their_sign() -> None:
    near = 1 - torch.finfo(torch.float32).eps
    rows = torch.tensor([[1, 4 * near, 4], [-9, -4 / near, -4], [-math.inf, -math.inf, 0], [-math.inf] * 3])
    assert first_most(rows).tolist() == [1, 1, 2, 0]


BAD = {3: math.nan, 11: math.inf, 20: -math.inf, 21: 3e38}
"""Tokens, and a value in them that leaves them without a direction; float32 does not hold the square of the last."""


def spoilt(tokens: Tensor) -> tuple[Tensor, list[int]]:
    """(M, D) with such values in some tokens, and the places of the others."""
    tokens = tokens.clone()
    for place, value in BAD.items():
        tokens[place, 2:4] = value
    return tokens, [i for i in range(len(tokens)) if i not in BAD]


@pytest.mark.parametrize("objective", ["maxsum", "kcenter", "weighted"])
@pytest.mark.parametrize("way", ["each", "foreseen", "together", "row by row"])
def test_tokens_without_a_direction_come_last(way: str, objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What NaN and infinity leave is chosen as if they were not there; then the earliest of them, and none twice."""
    monkeypatch.setattr(_greedy, "_IN_CACHE", 0 if way == "foreseen" else 1 << 19)
    monkeypatch.setattr(module, "_GRAM", 0 if way == "row by row" else 1 << 28)
    run = module._one_by_one if way in ("each", "foreseen") else module._together
    (tokens, sound), start = spoilt(points(12, 90, 7)), 17
    weight, name = None, objective
    if objective == "weighted":  # copies of directions, and what counts for less than rounding, are no reason either
        weight, name = points(13, 1, 90).abs() * torch.logspace(-30, 30, 90), "kcenter"
    valid = torch.ones(1, 90, dtype=torch.bool)
    for count in (1, 40, len(sound), len(sound) + 1, len(sound) + 3, 90):
        got = run(tokens[None], valid, [count], torch.tensor([start]), name == "kcenter", weight)[0]
        chosen = [i for i in got.nonzero()[:, 0].tolist() if i in sound]
        assert got.sum() == count
        assert got.nonzero()[:, 0].tolist() == sorted(chosen + list(BAD)[: max(0, count - len(sound))])
        own = None if weight is None else weight[:, sound]
        first = torch.tensor([sound.index(start)])
        few = run(tokens[None, sound], valid[:, sound], [len(chosen)], first, name == "kcenter", own)[0]
        assert chosen == [sound[i] for i in few.nonzero()[:, 0].tolist()]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("way", ["each", "foreseen", "together"])
def test_a_start_without_a_direction_is_like_nothing(way: str, objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is chosen, as it was asked for, and the others as behind a zero vector; a picture of nothing else is, too."""
    monkeypatch.setattr(_greedy, "_IN_CACHE", 0 if way == "foreseen" else 1 << 19)
    run = module._together if way == "together" else module._one_by_one
    tokens, sound = spoilt(points(14, 60, 5))
    blank = tokens.index_fill(0, torch.tensor(list(BAD)), 0.0)[[3, *sound]]
    valid, kcenter = torch.ones(1, 60, dtype=torch.bool), objective == "kcenter"
    got = run(tokens[None], valid, [30], torch.tensor([3]), kcenter, None)[0]
    as_zero = run(blank[None], valid[:, : len(blank)], [30], torch.tensor([0]), kcenter, None)[0]
    assert got[[3, *sound]].tolist() == as_zero.tolist()
    assert got.sum() == 30
    nothing = run(torch.full_like(tokens, math.nan)[None], valid, [7], torch.tensor([30]), kcenter, None)[0]
    assert nothing.nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 30]


@pytest.mark.parametrize("way", ["each", "together"])
def test_a_weight_that_is_none_counts_for_nothing(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN as 0; infinity is more than all others."""
    if way == "together":
        monkeypatch.setattr(module, "_one_by_one", module._together)
    tokens, valid, weight = points(15, 1, 40, 6), torch.ones(1, 40, dtype=torch.bool), points(16, 1, 40).abs()
    zero = weight.clone()
    weight[0, ::3], zero[0, ::3] = math.nan, 0.0
    for count in (5, 27, 40):
        given = tokens, valid, [count], torch.tensor([8]), "kcenter"
        got = farthest_point(*given, weight)  # type: ignore[arg-type]
        assert got.sum() == count
        assert torch.equal(got, farthest_point(*given, zero))  # type: ignore[arg-type]
    weight[0, 25] = math.inf
    assert farthest_point(tokens, valid, [2], torch.tensor([8]), "kcenter", weight).nonzero()[:, 1].tolist() == [8, 25]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tokens_are_compared_in_float32(dtype: torch.dtype) -> None:
    """What is chosen is what the same rounded values choose in float64."""
    tokens = points(8, 1, 30, 16).to(dtype)
    for objective in OBJECTIVES:
        expected = order_of(tokens[0].double().numpy(), 12, 0, objective)
        assert pick(tokens, [12], [0], objective)[0].nonzero().flatten().tolist() == sorted(expected)
