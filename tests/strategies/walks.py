"""What the tests of greedy pruners share: a model's own features and saliency, and a slow choice among them."""

from collections.abc import Callable

import numpy as np

from tests.strategies.helpers import kept, pair, probe, three_rows
from tests.strategies.test_todre import features
from vtokens.strategies import Saliency

Choice = Callable[[np.ndarray, np.ndarray, int], list[int]]
"""(features (N, D), saliency (N,), how many) -> what stays, in float64."""


def scaled(scores: np.ndarray) -> np.ndarray:
    """Scores from 0 to 1."""
    return (scores - scores.min()) / (scores.max() - scores.min())


def cosines(features: np.ndarray) -> np.ndarray:
    """(N, N)."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit @ unit.T


def follows(family: str, name: str, choice: Choice, counts: tuple[int, ...] = (1, 4, 7), more: str = "") -> None:
    """Assert that a strategy keeps what a slow choice keeps of the model's own features, in a ragged batch."""
    model, batch = pair(family)[0], three_rows(family)
    saliency = probe(model, batch, Saliency())[Saliency()]
    for count in counts:
        expected = [
            sorted(choice(part.double().numpy(), own.double().numpy(), min(count, len(part))))
            for part, own in zip(features(model, batch), saliency, strict=True)
        ]
        assert kept(model, batch, f"{name}(keep={count}{more})") == expected
