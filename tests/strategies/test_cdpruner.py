"""`cdpruner` against stored outputs of the release, determinants tried one by one, and the worked example."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

import vtokens
from tests.strategies import invariants
from tests.strategies.helpers import pair
from tests.strategies.invariants import Shown, drawn, numbers, phi, picks

STORED = Path(__file__).parent / "parity" / "cdpruner.npz"
"""Three drawn pictures and the tokens that the repository Theia-4869/CDPruner (commit ed9c12d, `encode_images` of
llava/model/llava_arch.py, one picture a call, in float32 on a CPU) keeps of them. torch seed 20261129; features are one
of 8 Gaussian centres each, plus 0.8 of noise; patches and texts, in CLIP's space, Gaussian in 24 channels, with 1, 2, 3
cuts of text; all rounded to float16. (tokens, width, kept) = (144, 96, 24), (100, 32, 30), (64, 48, 12)."""


def matrix(picture: Shown) -> np.ndarray:
    """L in float64, from the formula: relevance is minus the picture's, rescaled."""
    unit, relevance = numbers(picture)[0], -picture.relevance.double().numpy()
    weight = (relevance - relevance.min() + 1e-6) / (relevance.max() - relevance.min())
    return weight[:, None] * (unit @ unit.T) * weight


@pytest.mark.parametrize("number", range(3))
def test_the_release_keeps_the_same_tokens_of_the_same_relevance(number: int) -> None:
    stored = np.load(STORED)
    tokens, patches, texts = (
        torch.from_numpy(stored[f"{name}_{number}"].astype(np.float32)) for name in ("features", "patches", "texts")
    )
    relevance = torch.cosine_similarity(patches[:, None], texts[None], dim=-1).mean(1)
    expected = stored[f"kept_{number}"].tolist()
    assert picks(f"cdpruner(keep={len(expected)})", Shown(tokens, relevance=relevance)) == [expected]


def test_the_worked_example() -> None:
    """Phi with relevance by its saliency: 0, then 3, which is the best of all pairs."""
    picture = phi()
    picture = Shown(picture.tokens, relevance=-picture.saliency)
    assert [picks(f"cdpruner(keep={count})", picture)[0] for count in (1, 2)] == [[0], [0, 3]]
    whole = matrix(picture)
    assert max(combinations(range(6), 2), key=lambda two: np.linalg.det(whole[np.ix_(two, two)])) == (0, 3)
    gains = [whole[i, i] - whole[0, i] ** 2 / whole[0, 0] for i in range(1, 6)]
    np.testing.assert_allclose(gains, [0.0193, 0, 0.36, 0.0187, 0], atol=6e-5)


def test_each_choice_raises_the_determinant_most() -> None:
    """Every candidate's determinant computed whole, at every step."""
    for seed in range(3):
        picture = drawn(seed, 17)
        whole, chosen = matrix(picture), list[int]()
        for _ in range(6):
            rest = [one for one in range(17) if one not in chosen]
            chosen.append(max(rest, key=lambda one: np.linalg.det(whole[np.ix_([*chosen, one], [*chosen, one])])))
        assert picks("cdpruner(keep=6)", picture) == [sorted(chosen)]


def test_once_nothing_new_is_left_the_most_relevant_follow() -> None:
    """Two channels span all: two tokens by determinant, and no token twice, whatever rounding leaves."""
    picture = drawn(5, 12, width=2)
    relevance = -picture.relevance
    (two,), (five,) = picks("cdpruner(keep=2)", picture), picks("cdpruner(keep=5)", picture)
    rest = sorted((one for one in range(12) if one not in two), key=lambda one: -float(relevance[one]))
    assert five == sorted([*two, *rest[:3]])


def test_equal_relevance_is_plain_diversity() -> None:
    """theta = 0 weighs all alike, and so does relevance that is the same everywhere."""
    picture = drawn(2, 25)
    flat = Shown(picture.tokens, relevance=torch.full((25,), 0.3))
    assert picks("cdpruner(keep=8)", flat) == picks("cdpruner(keep=8, theta=0.0)", picture)
    assert picks("cdpruner(keep=8)", picture) != picks("cdpruner(keep=8, theta=0.0)", picture)
    assert picks("cdpruner(keep=8, negated=false)", picture) != picks("cdpruner(keep=8)", picture)


@pytest.mark.parametrize("theta", ["1.0", "-0.2", "nan"])
def test_settings_that_make_no_sense_are_refused(theta: str) -> None:
    with pytest.raises(ValueError, match="theta"):
        vtokens.attach(pair("llava")[0], f"cdpruner(theta={theta})")


def test_invariants() -> None:
    invariants.hold("cdpruner(keep=5)")
    invariants.keeps_all("cdpruner")
