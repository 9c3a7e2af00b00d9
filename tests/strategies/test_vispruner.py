"""VisPruner against what its release keeps of stored inputs, and against loops over tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vtokens
from tests.engine.cases import model
from tests.strategies.invariants import Shown, drawn, hold, keeps_all, numbers, picks
from tests.strategies.made import tensor

# What `encode_images` of Theia-4869/VisPruner (commit a089bff7) keeps of features (2, 160, 12), normal plus 1.5 times a
# common vector, by attention (2, 4, 160) of [CLS], softmax of 2 * normal; torch seed 11. Tokens and important share:
RELEASE = np.load(Path(__file__).parent / "parity" / "vispruner.npz")
CASES = [("a", 32, 0.5), ("b", 60, 0.3), ("c", 20, 0.8), ("d", 16, 0.0)]


@pytest.mark.parametrize(("case", "count", "important"), CASES)
def test_the_release_keeps_the_same_tokens(case: str, count: int, important: float) -> None:
    pictures = [
        Shown(tensor(features), tensor(attention.mean(0)))
        for features, attention in zip(RELEASE["features"], RELEASE["attention"], strict=True)
    ]
    found = picks(f"vispruner(keep={count}, important={important})", *pictures)
    assert found == [np.flatnonzero(kept).tolist() for kept in RELEASE[f"kept_{case}"]]


def by_loops(picture: Shown, count: int, important: float) -> list[int]:
    """The method in float64, token by token; an odd rest has one more token in its first half."""
    units, scores = numbers(picture)
    order = sorted(range(len(scores)), key=lambda one: -scores[one])
    first = int(count * important)
    stay, left = order[:first], order[first:]
    while len(left) > count - first:
        halves = left[::2], left[1::2]
        most = [max((float(units[one] @ units[other]) for other in halves[1]), default=0.0) for one in halves[0]]
        ranked = [one for _, one in sorted(zip(most, halves[0], strict=True), key=lambda pair: -pair[0])]
        left = ranked[min(8, len(left) - (count - first), len(ranked)) :] + halves[1]
        if count == first:
            left = []
    return sorted(stay + left)


@pytest.mark.parametrize("nearest", [1, 32])
@pytest.mark.parametrize("important", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 5, 6, 10])
def test_rounds_are_those_of_loops(important: float, count: int, nearest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a ragged batch, of odd numbers too, which the release cannot halve; however few neighbours are looked at."""
    monkeypatch.setattr("vtokens.strategies.prune.vispruner._NEAREST", nearest)
    pictures = [drawn(1, 23), drawn(2, 40), drawn(3, 11)]
    found = picks(f"vispruner(keep={count}, important={important})", *pictures)
    assert found == [by_loops(one, count, important) for one in pictures]


def test_what_holds_of_pruners() -> None:
    """It starts in the order of attention, so that the places of tokens do not matter."""
    hold("vispruner(keep=5)", nests=False)
    keeps_all("vispruner")


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"important=-0.1 is out of range"):
        vtokens.attach(model("llava", "pruned"), "vispruner(important=-0.1)")
