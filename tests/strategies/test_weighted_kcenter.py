"""`weighted_kcenter` (SCoRe) against its definition in float64, the worked example, and its limits."""

import numpy as np
import pytest

import vtokens
from tests.strategies import invariants
from tests.strategies.helpers import pair
from tests.strategies.invariants import Shown, drawn, numbers, phi, picks


def naive(picture: Shown, count: int, alpha: float) -> list[int]:
    """The greedy order: a token's distance to the nearest chosen one times its saliency to the power alpha."""
    unit, salient = numbers(picture)
    distance, chosen = 1 - unit @ unit.T, [int(salient.argmax())]
    while len(chosen) < count:
        score = distance[:, chosen].min(1) * salient**alpha
        score[chosen] = -1
        chosen.append(int(score.argmax()))
    return chosen


def test_the_worked_example() -> None:
    """From the most salient of Phi on: its scores at the second step are .005, .0752, .2759, .4252, .1699."""
    orders = [set(picks(f"weighted_kcenter(keep={count})", phi())[0]) for count in (1, 2, 3)]
    assert [sorted(new - old) for old, new in zip([set(), *orders], orders, strict=False)] == [[0], [4], [3]]
    unit, salient = numbers(phi())
    scores = (1 - unit @ unit[0]) * salient**0.8
    np.testing.assert_allclose(scores[1:], [0.005, 0.0752, 0.2759, 0.4252, 0.1699], atol=6e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.8, 2.5])
@pytest.mark.parametrize("count", [1, 6, 100])
def test_it_is_the_greedy_loop(alpha: float, count: int) -> None:
    for seed in range(3):
        picture = drawn(seed, 170 if count == 100 else 31)
        found = picks(f"score_kcenter(keep={count}, alpha={alpha})", picture)
        assert found == [sorted(naive(picture, count, alpha))]


def test_without_weight_it_is_farthest_point_sampling() -> None:
    picture = drawn(3, 40)
    assert picks("weighted_kcenter(keep=9, alpha=0.0)", picture) == picks(
        "todre(keep=9, objective=kcenter, exit_threshold=none)", picture
    )


def test_weight_above_all_is_the_highest_saliency() -> None:
    """As alpha grows the order becomes that of saliency, but for equal tokens."""
    picture = drawn(4, 15)
    best = sorted(numbers(picture)[1].argsort()[-4:].tolist())
    assert picks("weighted_kcenter(keep=4, alpha=8.0)", picture) == [best]


@pytest.mark.parametrize("alpha", ["-0.1", "nan", "inf"])
def test_weights_that_make_no_sense_are_refused(alpha: str) -> None:
    with pytest.raises(ValueError, match="alpha"):
        vtokens.attach(pair("llava")[0], f"weighted_kcenter(alpha={alpha})")


def test_invariants() -> None:
    invariants.hold("weighted_kcenter(keep=5)")
    invariants.spoilt_go_first("weighted_kcenter", drawn(6, 19))
    invariants.keeps_all("weighted_kcenter")
