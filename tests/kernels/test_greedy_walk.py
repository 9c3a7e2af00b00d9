"""`greedy_walk` and `scaled` against loops in float64, on padded sets, with and without room for all cosines."""

import numpy as np
import pytest
import torch

from tests.limits import close
from vtokens.kernels import greedy_walk, scaled

COUNTS = (9, 4, 0, 7)


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(4, 9, 5, generator=generator)
    valid = torch.arange(9) < torch.tensor([9, 6, 3, 7])[:, None]
    return tokens, valid, torch.rand(4, 9, generator=generator)


def slow(tokens: np.ndarray, worth: np.ndarray, count: int) -> list[int]:
    """A loop: each choice takes half of its cosine from what the others are worth."""
    unit, worth, found = tokens / np.linalg.norm(tokens, axis=1, keepdims=True), worth.copy(), list[int]()
    for _ in range(count):
        best = max((one for one in range(len(unit)) if one not in found), key=lambda one: worth[one])
        found.append(best)
        for other in range(len(unit)):
            worth[other] -= 0.5 * unit[other] @ unit[best]
    return sorted(found)


@pytest.mark.parametrize(("room", "ahead"), [(1 << 26, 0), (1, 0), (1, 1), (1, 3)])
def test_the_walk_is_the_loop(room: int, ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On sets of several sizes, whatever stands on padding; the same where cosines are made a choice at a time, or
    those of a few that may be next along with them."""
    monkeypatch.setitem(greedy_walk.__globals__, "_GRAM", room)
    if ahead:
        monkeypatch.setattr("vtokens.kernels._ahead._IN_CACHE", 0)
        monkeypatch.setattr("vtokens.kernels._ahead._AHEAD", ahead)
    tokens, valid, worth = drawn()
    tokens[~valid], worth[~valid] = 7.0, 99.0
    chosen = greedy_walk(tokens, valid, COUNTS, worth, lambda worth, like, best, pick: worth - 0.5 * like)
    for row, count in enumerate(COUNTS):
        own = tokens[row, valid[row]].double().numpy()
        expected = slow(own, worth[row, valid[row]].double().numpy(), count)
        assert chosen[row].nonzero()[:, 0].tolist() == expected


def test_update_is_told_what_was_chosen_and_what_it_was_worth() -> None:
    """The place and the worth of the choice, and its cosine with itself, which is 1."""
    tokens, valid, worth = drawn(1)
    seen = []

    def update(now: torch.Tensor, like: torch.Tensor, best: torch.Tensor, pick: torch.Tensor) -> torch.Tensor:
        assert torch.equal(now.gather(1, pick), best)
        close(like.gather(1, pick), torch.ones(4, 1), 5)
        seen.append(pick[0, 0].item())
        return now

    greedy_walk(tokens, valid, (3, 3, 3, 3), worth, update)
    assert seen == worth[0].topk(3).indices.tolist()


def test_the_first_of_equals_is_taken() -> None:
    valid = torch.ones(1, 4, dtype=torch.bool)
    worth = torch.tensor([[1.0, 2.0, 2.0, 2.0]])
    chosen = greedy_walk(torch.eye(4)[None], valid, (2,), worth, lambda worth, *_: worth)
    assert chosen.tolist() == [[False, True, True, False]]


def test_scores_are_scaled_in_each_set() -> None:
    """Padding has no say; equal scores are 1; infinitely small differences divide by nothing."""
    scores = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, -9.0], [4.0, 4.0, 4.0]])
    valid = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    assert scaled(scores, valid).tolist() == [[0.0, 1.0, 0.5], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_what_does_not_fit_is_refused() -> None:
    tokens, valid, worth = drawn()
    with pytest.raises(ValueError, match="3 counts do not fit"):
        greedy_walk(tokens, valid, (1, 1, 1), worth, lambda worth, *_: worth)
