"""`idselection` against a slow walk in float64, a case worked out by hand, and what must hold of every pruner."""

import numpy as np
import pytest
import torch

from tests.strategies.invariants import Shown, hold, keeps_all, picks
from tests.strategies.walks import cosines, follows, scaled
from vtokens.strategies.prune.idselection import IdSelection


def walk(features: np.ndarray, saliency: np.ndarray, count: int) -> list[int]:
    """One token at a time, one pair at a time."""
    like, score, found = cosines(features), list(scaled(saliency)), list[int]()
    while len(found) < count:
        best = max((one for one in range(len(score)) if one not in found), key=lambda one: score[one])
        found.append(best)
        taken = max(score[best], 0.0)
        for other in range(len(score)):
            score[other] -= np.exp(-20 * (1 - like[best, other]) ** 2) * taken
    return found


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl"])
def test_the_kept_tokens_are_those_of_a_slow_walk(family: str) -> None:
    """On the genuine features and saliency of a family, several pictures a row, padded."""
    follows(family, "idselection", walk)


def test_a_look_alike_loses_its_turn() -> None:
    """By hand: [1, 0] is taken first; its twin, second by saliency, loses all, and the third comes in its place."""
    tokens = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    picture = Shown(tokens, torch.tensor([0.9, 0.8, 0.3, 0.1]))
    assert picks(IdSelection(keep=2), picture) == [[0, 2]]
    # gamma 0 takes as much from all: saliency alone decides.
    assert picks(IdSelection(keep=2, gamma=0.0), picture) == [[0, 1]]


def test_a_score_that_is_used_up_gives_nothing_back() -> None:
    """By hand: 0 takes 0.9 of its score from 1, 2 and 3, which fall below zero; 2 comes before 3, the twin of 1."""
    angles = torch.tensor([0.0, 0.3834, -0.3834, 0.3834, 1.9])
    tokens = torch.stack([angles.cos(), angles.sin()], 1)
    picture = Shown(tokens, torch.tensor([1.0, 0.55, 0.52, 0.40, 0.0]))
    assert picks(IdSelection(keep=4), picture) == [[0, 1, 2, 4]]


def test_what_holds_for_every_pruner() -> None:
    hold("idselection(keep=5)")
    keeps_all("idselection", ["llava"])


@pytest.mark.parametrize("gamma", [-1.0, float("nan")])
def test_a_gamma_that_is_none_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma"):
        IdSelection(gamma=gamma)
