"""`apet` against the released code and slow loops in float64; its two stages, and what must hold of every pruner."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vtokens
from tests.limits import close
from tests.strategies.helpers import pair, report, three_rows
from tests.strategies.invariants import Shown, drawn, hold, keeps_all, picks, visuals
from tests.strategies.made import merged
from vtokens.strategies.merge.apet import Apet, farthest_first, unexplained

STORED = Path(__file__).parent / "parity" / "apet.npz"


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    """What the release gave, Maqkccx/ApET at 655f5c2: `fps`, the errors of `encode_images` and `token_merging` of
    llava/model, in float32 and without a projector, of two sets of 40 tokens of 16 channels, 12 of them kept, 4 of
    these as basis. Its random start is the token farthest from the mean, as ours."""
    with np.load(STORED) as found:
        return {name: torch.from_numpy(found[name]) for name in found.files}


def slow(tokens: np.ndarray, count: int, basis: int) -> tuple[list[int], np.ndarray]:
    """What stays, and what it becomes: one token at a time, in float64."""
    far = np.square(tokens - tokens.mean(0)).sum(1)
    seeds = [int(far.argmax())]
    while len(seeds) < basis:
        seeds.append(int(np.argmax([min(np.square(one - tokens[s]).sum() for s in seeds) for one in tokens])))
    rows = tokens[seeds]
    errors = [
        float(np.linalg.norm(one - np.linalg.solve(rows @ rows.T + 1e-5 * np.eye(basis), rows @ one) @ rows))
        for one in tokens
    ]
    slots = seeds[: min(basis, count // 2)]
    order = sorted((one for one in range(len(tokens)) if one not in slots), key=lambda one: -errors[one])
    best = order[: count - len(slots)]
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    members: dict[int, list[int]] = {one: [one] for one in best}
    for other in set(range(len(tokens))) - {*best, *slots}:
        members[max(sorted(best), key=lambda one: unit[one] @ unit[other])].append(other)
    kept = sorted([*best, *slots])
    return kept, np.stack([tokens[members[one]].mean(0) if one in members else tokens[one] for one in kept])


def test_the_released_code_gives_the_same_features(stored: dict[str, torch.Tensor]) -> None:
    """Basis, errors, what stays, and what it becomes, with basis tokens in the places that the release gives them."""
    tokens = stored["tokens"]
    basis, there = farthest_first(tokens, torch.ones(2, 40, dtype=torch.bool), 4)
    assert torch.equal(basis, stored["basis"])
    assert there.all()
    close(unexplained(tokens, basis, there), stored["errors"], 16, chain=8)
    strategy = Apet(keep=12, basis=4, layer=0, places="released")
    selection, features = merged(strategy, visuals(strategy, [*map(Shown, tokens)]))
    assert selection.counts == (12, 12)
    kept = [row.nonzero()[:, 0] for row in stored["kept"]]
    assert [row.nonzero()[:, 0].tolist() for row in selection.keep[:, :]] == [one.tolist() for one in kept]
    close(torch.stack(features), stored["features"], 16, chain=4)


@pytest.mark.parametrize(("count", "basis"), [(12, 4), (5, 4), (1, 3), (19, 2)])
def test_what_stays_and_what_it_becomes_are_those_of_loops(count: int, basis: int) -> None:
    """With basis tokens at their own places, in sets of several sizes."""
    pictures = [drawn(7, 23), drawn(8, 31), drawn(9, 19)]
    strategy = Apet(keep=count, basis=basis, layer=0)
    selection, features = merged(strategy, visuals(strategy, pictures))
    for row, (picture, got) in enumerate(zip(pictures, features, strict=True)):
        kept, expected = slow(picture.tokens.double().numpy(), count, basis)
        assert selection.keep[row].nonzero()[:, 0].tolist() == kept
        close(got, torch.from_numpy(expected).float(), 31, chain=2)


def test_what_the_basis_spans_has_no_error() -> None:
    """The oracle: combinations of the basis are rebuilt; what stands off it by r is off by r."""
    basis = torch.randn(1, 4, 12, generator=torch.Generator().manual_seed(2))
    inside = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(3)) @ basis
    off = torch.linalg.svd(basis[0]).Vh[-1:]  # unit, and at right angles to all of it
    tokens = torch.cat([basis, inside, inside[:, :1] + 0.3 * off], 1)
    errors = unexplained(tokens, torch.arange(4)[None], torch.ones(1, 4, dtype=torch.bool))[0]
    assert (errors[:-1] < 1e-3).all()
    assert errors[-1].item() == pytest.approx(0.3, rel=1e-2)


def test_few_distinct_tokens_make_a_basis_of_these() -> None:
    """Twelve copies of two tokens: two are basis, nothing is unexplained, nothing is nan."""
    tokens = torch.tensor([[1.0, 0, 2], [0, 3.0, 1]]).repeat(6, 1)[None]
    picks_, there = farthest_first(tokens, torch.ones(1, 12, dtype=torch.bool), 5)
    assert there.sum() == 2
    assert (unexplained(tokens, picks_, there) < 1e-3).all()
    (found,) = picks(Apet(keep=6, layer=0), Shown(tokens[0]))
    assert len(found) == 6


@pytest.mark.parametrize("keep", [0.25, 0.9, 4])
def test_the_average_over_layers_is_what_was_asked_for(keep: Any) -> None:
    """Four layers: 1.5 times as many through the first half, half as many through the second; or all and the rest."""
    for sample in report(pair("llava")[0], three_rows("llava"), f"apet(keep={keep})").samples:
        whole = sample.visual_tokens[0] and 16 * len(sample.pictures)
        asked = sum(4 if keep == 4 else int(16 * keep + 0.5) for _ in sample.pictures)
        first, second = sample.visual_tokens[0], sample.visual_tokens[-1]
        assert list(sample.visual_tokens) == [first, first, second, second]
        assert (first + second) / 2 == asked
        assert first == min(whole, asked * 3 // 2)


def test_what_holds_for_every_pruner() -> None:
    hold("apet(keep=5, layer=0, basis=2)", nests=False, length=False)
    hold("apet(keep=5, layer=0, basis=2, places=released)", nests=False, length=False)
    keeps_all("apet", ["llava"])


@pytest.mark.parametrize(("spec", "says"), [("basis=0", "basis=0"), ("layer=4", "layer=4"), ("layer=-1", "layer=-1")])
def test_settings_out_of_range_are_refused(spec: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        vtokens.attach(pair("llava")[0], f"apet({spec})")
