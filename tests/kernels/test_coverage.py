"""Greedy coverage and determinants: both ways of a choice, sets of different sizes, and what does not fit."""

import numpy as np
import pytest
import torch

from vtokens.kernels import coverage, determinantal
from vtokens.kernels.coverage import _lazily, _without_waiting


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(4))
def test_gains_that_are_not_looked_at_do_not_matter(seed: int) -> None:
    """The lazy way, what devices do, and the definition, for more tokens than are looked at together."""
    cover, weight = drawn(seed, 90, 40).clamp(min=0), drawn(seed + 50, 90).abs()
    best, chosen = np.zeros(40), list[int]()
    for _ in range(25):
        gain = np.array([np.maximum(best, row).sum() - best.sum() for row in cover.double().numpy()])
        gain *= weight.double().numpy()
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        best = np.maximum(best, cover[chosen[-1]].double().numpy())
    for way in (_lazily, _without_waiting):
        assert way(cover, weight, 25).nonzero()[:, 0].tolist() == sorted(chosen)


def test_few_gains_are_looked_at_again() -> None:
    """Of tokens in clusters, most bounds are too low to win, so that most rows are not read again."""
    read = 0

    class Counted(np.ndarray):
        def __getitem__(self, key: object) -> np.ndarray:
            nonlocal read
            read += len(key) if isinstance(key, np.ndarray) else 1
            return super().__getitem__(key).view(np.ndarray)

    class Rows:
        def numpy(self) -> np.ndarray:
            centres = drawn(0, 30, 8)[torch.arange(600) % 30] + 0.1 * drawn(1, 600, 8)
            unit = torch.nn.functional.normalize(centres, dim=-1)
            return (unit @ unit.T).clamp(min=0).numpy().view(Counted)

    _lazily(Rows(), torch.ones(600), 60)  # type: ignore[arg-type]
    assert read < 0.5 * 60 * 600


def test_sets_of_different_sizes() -> None:
    """Each is worked on as by itself; all or none of a set need no choice."""
    tokens, weight = drawn(3, 3, 12, 5), torch.ones(3, 12)

    def covers(group: int, size: int) -> torch.Tensor:
        return tokens[group, :size] @ tokens[group, :size].T

    found = coverage(covers, [12, 7, 9], [4, 7, 0], weight)
    assert found.sum(1).tolist() == [4, 7, 0]
    assert found[1].tolist() == [True] * 7 + [False] * 5
    assert torch.equal(coverage(lambda _, size: covers(0, size), [12], [4], weight[:1])[0], found[0])


@pytest.mark.parametrize(("sizes", "counts"), [([5], [6]), ([5], [-1]), ([5, 5], [1])])
def test_counts_that_do_not_fit_are_refused(sizes: list[int], counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"do not fit|are allowed"):
        coverage(lambda _, size: torch.ones(size, size), sizes, counts, torch.ones(1, 5))


@pytest.mark.parametrize("ahead", [0, 1, 3, 32])
def test_each_choice_raises_the_determinant_most(ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By determinants in float64 of every set that one more token makes; cosines made ahead change nothing."""
    if ahead:
        monkeypatch.setattr("vtokens.kernels._ahead._IN_CACHE", 0)
        monkeypatch.setattr("vtokens.kernels._ahead._AHEAD", ahead)
    tokens, weight = drawn(5, 2, 9, 12), drawn(6, 2, 9).abs() + 0.1
    valid, counts = torch.arange(9) < torch.tensor([[9], [7]]), [5, 4]
    found = determinantal(tokens, weight, valid, counts)
    for row, count in enumerate(counts):
        unit = tokens[row, valid[row]].double().numpy()
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        kernel = unit @ unit.T * np.outer(weight[row, valid[row]].double(), weight[row, valid[row]].double())
        chosen: list[int] = []
        for _ in range(count):
            rest = [one for one in range(len(unit)) if one not in chosen]
            chosen.append(
                max(rest, key=lambda one: float(np.linalg.det(kernel[np.ix_([*chosen, one], [*chosen, one])])))
            )
        assert found[row].nonzero()[:, 0].tolist() == sorted(chosen)


def test_determinants_of_zero_and_equal_tokens() -> None:
    """A zero vector and a copy raise no determinant: they come after all others, by their weights."""
    tokens = drawn(4, 1, 6, 8)
    tokens[0, 2], tokens[0, 5] = 0, 2 * tokens[0, 1]
    weight = torch.tensor([[1.0, 2.0, 9.0, 1.0, 1.0, 1.9]])
    valid = torch.ones(1, 6, dtype=torch.bool)
    assert determinantal(tokens, weight, valid, [4])[0].nonzero()[:, 0].tolist() == [0, 1, 3, 4]
    assert determinantal(tokens, weight, valid, [5])[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("counts", [[7], [-1], [1, 1]])
def test_determinants_that_do_not_fit_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"do not fit|are allowed"):
        determinantal(drawn(0, 1, 6, 3), torch.ones(1, 6), torch.ones(1, 6, dtype=torch.bool), counts)
