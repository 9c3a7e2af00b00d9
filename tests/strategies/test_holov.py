"""`holov` against stored outputs of the release, quotas counted by hand, and its limits."""

from pathlib import Path

import numpy as np
import pytest
import torch

import vtokens
from tests.strategies import invariants
from tests.strategies.helpers import pair
from tests.strategies.invariants import Shown, drawn, picks

STORED = Path(__file__).parent / "parity" / "holov.npz"
"""Drawn attention of eight pictures and the tokens that the function `HoloV` of the repository obananas/HoloV (commit
07c159b, llava/model/utils.py) keeps of them in 16 parts, in float32 on a CPU. torch seed 20261129: for each of (tokens,
kept) = (576, 64), (576, 192), (200, 40), (100, 20) and temperature 1 and 2, features randn(1, N, 16), then attention
softmax(temperature * randn(1, N)), times exp(1.5 sin(12 i / N + number of the picture)), scaled to a sum of 0.7. Rows
of zeros, which the release puts in place of what a part has no tokens for, are left out."""


def seen(saliency: np.ndarray) -> Shown:
    """A picture of which nothing but its saliency is told."""
    return Shown(torch.ones(len(saliency), 2), torch.from_numpy(saliency))


@pytest.mark.parametrize("number", range(8))
def test_the_release_keeps_the_same_tokens(number: int) -> None:
    """All that it keeps; where it hands on rows of zeros, ours are further tokens, the most salient of the rest."""
    stored = np.load(STORED)
    saliency, expected = stored[f"saliency_{number}"], stored[f"kept_{number}"].tolist()
    (found,) = picks(f"holov(keep={stored[f'count_{number}']})", seen(saliency))
    rest = sorted(set(range(len(saliency))) - set(expected), key=lambda one: -saliency[one])
    assert found == sorted(expected + rest[: len(found) - len(expected)])
    assert len(found) == stored[f"count_{number}"]


def test_quotas_by_hand() -> None:
    """Nine tokens in two parts, five and four: means .12 and .1, so 4 tokens are 2 and 1 and one more for the first."""
    saliency = np.array([0.1, 0.2, 0.05, 0.15, 0.1, 0.1, 0.09, 0.12, 0.09], dtype=np.float32)
    assert picks("holov(keep=4, parts=2)", seen(saliency)) == [[0, 1, 3, 7]]


def test_equal_tokens_have_equal_quotas() -> None:
    """16 parts of 36 tokens each keep the first two of theirs."""
    (found,) = picks("holov(keep=32)", seen(np.full(576, 1 / 576, dtype=np.float32)))
    assert found == sorted([*range(0, 576, 36), *range(1, 576, 36)])


@pytest.mark.parametrize("means", [(1, 4, 5), (2, 3, 5), (5, 3, 2), (7, 1, 2)])
def test_quotas_that_are_whole_numbers_are_not_rounded_down(means: tuple[int, ...]) -> None:
    """Three parts of ten equal tokens each: ten are shared exactly, though float32 makes 0.1 * 10 less than 1."""
    (found,) = picks("holov(keep=10, parts=3)", seen(np.repeat(np.float32(means) / 100, 10)))
    assert [sum(one // 10 == part for one in found) for part in range(3)] == list(means)


def test_one_part_is_the_highest_saliency() -> None:
    picture = drawn(0, 40)
    assert picks("holov(keep=7, parts=1)", picture) == picks("cls(keep=7)", picture)


def test_what_a_part_has_no_room_for_goes_to_the_others() -> None:
    """All saliency in one part of two tokens: it keeps both, and the rest is as many as were asked for."""
    saliency = np.array([0.5, 0.4, 0.001, 0.003, 0.002, 0.001, 0.001, 0.002], dtype=np.float32)
    assert picks("holov(keep=5, parts=4)", seen(saliency)) == [[0, 1, 3, 4, 7]]


@pytest.mark.parametrize("parts", [0, -3])
def test_no_parts_are_refused(parts: int) -> None:
    with pytest.raises(ValueError, match=f"parts={parts} is out of range: at least 1"):
        vtokens.attach(pair("llava")[0], f"holov(parts={parts})")


def test_invariants() -> None:
    invariants.hold("holov(keep=5, parts=4)", moves=False, nests=False)
    invariants.keeps_all("holov")
