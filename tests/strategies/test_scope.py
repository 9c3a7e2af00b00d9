"""`scope` against its definition in float64, the worked example, and what coverage promises."""

from itertools import combinations

import numpy as np
import pytest

import vtokens
from tests.strategies import invariants
from tests.strategies.helpers import pair
from tests.strategies.invariants import Shown, drawn, numbers, phi, picks


def gains(unit: np.ndarray, chosen: list[int]) -> list[float]:
    """What each token adds to the sum over all tokens of the largest cosine with a chosen one, at least 0."""
    out = []
    for one in range(len(unit)):
        total = 0.0
        for other in range(len(unit)):
            before = max([0.0, *(float(unit[other] @ unit[c]) for c in chosen)])
            total += max(0.0, float(unit[other] @ unit[one]) - before)
        out.append(total)
    return out


def naive(picture: Shown, count: int, alpha: float) -> list[int]:
    unit, salient = numbers(picture)
    chosen: list[int] = []
    while len(chosen) < count:
        gain = np.array(gains(unit, chosen)) * salient**alpha
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
    return chosen


def test_the_worked_example() -> None:
    """Phi: 0, then 3, then 4; the first gains times saliency are those of the definition."""
    orders = [set(picks(f"scope(keep={count})", phi())[0]) for count in (1, 2, 3)]
    assert [sorted(new - old) for old, new in zip([set(), *orders], orders, strict=False)] == [[0], [3], [4]]
    unit, salient = numbers(phi())
    expected = [0.6475, 0.6251, 0.125, 0.4317, 0.2977, 0.0992]
    np.testing.assert_allclose(np.array(gains(unit, [])) * salient, expected, atol=6e-5)


# Two tokens that only each other still cover gain the same, so that saliency has to tell them apart later on.
@pytest.mark.parametrize(("alpha", "count"), [(0.0, 1), (0.0, 4), (0.5, 12), (1.0, 5), (1.0, 20)])
def test_it_is_the_greedy_loop(alpha: float, count: int) -> None:
    for seed in range(2):
        picture = drawn(seed, 29)
        assert picks(f"scope(keep={count}, alpha={alpha})", picture) == [sorted(naive(picture, count, alpha))]


def test_coverage_is_near_the_best_of_all_subsets() -> None:
    """Without saliency, greedy coverage is at least 1 - 1/e of the best subset's (Nemhauser et al. 1978)."""
    for seed in range(3):
        unit = numbers(drawn(seed, 11, width=3))[0]
        like = (unit @ unit.T).clip(min=0)
        (found,) = picks("scope(keep=3, alpha=0.0)", drawn(seed, 11, width=3))
        best = max(like[list(some)].max(0).sum() for some in combinations(range(11), 3))
        assert like[found].max(0).sum() >= (1 - 1 / np.e) * best


@pytest.mark.parametrize("alpha", ["-1.0", "inf"])
def test_weights_that_make_no_sense_are_refused(alpha: str) -> None:
    with pytest.raises(ValueError, match="alpha"):
        vtokens.attach(pair("llava")[0], f"scope(alpha={alpha})")


def test_invariants() -> None:
    invariants.hold("scope(keep=5)")
    invariants.keeps_all("scope")
