"""PruMerge and its + against what the release makes of stored inputs, and against loops over tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vtokens
from tests.engine.cases import model
from tests.limits import rounding
from tests.strategies.invariants import Shown, counts_hold, drawn, hold, keeps_all, picks
from tests.strategies.made import made, rows_answer_as_alone, tensor

# What `token_prune_merge_advanced` and `..._plus` of 42Shawn/LLaVA-PruMerge (commit 1ca8b2ba) make of features, queries
# and keys (1, 576 and [CLS], 12), all normal; torch seed 5. Stored: features, keys and the attention of [CLS].
RELEASE = np.load(Path(__file__).parent / "parity" / "prumerge.npz")


@pytest.mark.parametrize("name", ["plain", "plus"])
def test_the_release_makes_the_same_tokens(name: str) -> None:
    """All that stay for themselves; the one of what was dropped stands at the last dropped place, not behind all."""
    picture = Shown(tensor(RELEASE["features"]), tensor(RELEASE["attention"]), keys=tensor(RELEASE["keys"])[:, None])
    ((places, tokens),) = made(f"prumerge(plus={name == 'plus'})", picture)
    centres, expected = RELEASE[f"kept_{name}"].tolist(), RELEASE[f"tokens_{name}"]
    (rest,) = set(places) - set(centres)
    assert rest == max(set(range(576)) - set(centres))
    assert len(places) == len(centres) + 1
    order = [*centres, rest]
    got = tokens[[places.index(one) for one in order]]
    np.testing.assert_allclose(got, expected, rtol=0, atol=rounding(float(np.abs(expected).max()), 576, 2))


def by_loops(picture: Shown, plus: bool) -> tuple[list[int], np.ndarray]:
    """The method in float64, token by token."""
    x, a = picture.tokens.double().numpy(), np.asarray(picture.saliency, dtype=np.float64)
    keys = picture.keys.double().numpy().reshape(len(a), -1)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    low, high = np.percentile(a, [25, 75])
    centres = [one for one in range(len(a)) if a[one] > high + 1.5 * (high - low)] or [int(a.argmax())]
    if plus:
        step = max(1, int(int(1 / (len(centres) / len(a))) / 3))
        centres = sorted({*centres, *range(0, len(a) - 1, step)})
    dropped = [one for one in range(len(a)) if one not in centres]
    out = {}
    for one in centres:
        near = sorted((other for other in range(len(a)) if other != one), key=lambda other: -(keys[one] @ keys[other]))
        out[one] = x[one] + sum(a[other] * x[other] for other in near[:32]) * bool(dropped)
    if dropped:
        out[dropped[-1]] = sum(a[other] * x[other] for other in dropped)
    return sorted(out), np.stack([out[one] for one in sorted(out)])


@pytest.mark.parametrize("plus", [False, True])
def test_sums_are_those_of_loops(plus: bool) -> None:
    """In a ragged batch whose pictures keep different numbers, and one has fewer tokens than are added."""
    pictures = [
        drawn(1, 90),
        drawn(2, 61),
        drawn(3, 20),
        Shown(drawn(4, 40).tokens, tensor(np.full(40, 0.025)), keys=drawn(4, 40).keys),
    ]
    found = made(f"prumerge(plus={plus})", *pictures)
    for picture, (places, tokens) in zip(pictures, found, strict=True):
        expected, sums = by_loops(picture, plus)
        assert places == expected
        np.testing.assert_allclose(tokens, sums, rtol=0, atol=rounding(max(1.0, float(np.abs(sums).max())), 90, 2))
    assert len({len(places) for places, _ in found}) > 2


def test_a_number_of_tokens() -> None:
    """The most salient, and one of all that was dropped; with plus a quarter of them, and others spread evenly."""
    picture = drawn(5, 24)
    best = np.argsort(-picture.saliency.numpy(), kind="stable")
    (found,) = picks("prumerge(keep=9)", picture)
    assert {*best[:8].tolist()} < {*found}
    (plus,) = picks("prumerge(keep=9, plus=True)", picture)
    assert {*best[:2].tolist()} < {*plus}
    others = [one for one in range(24) if one not in best[:2]]
    assert {others[22 * number // 6] for number in range(6)} < {*plus}
    for spec in ("prumerge", "prumerge(plus=True)"):
        counts_hold(spec, picture)


def test_all_tokens_stay_as_they_are() -> None:
    picture = drawn(6, 12)
    ((places, tokens),) = made("prumerge(keep=12)", picture)
    assert places == [*range(12)]
    np.testing.assert_array_equal(tokens, picture.tokens.double().numpy())
    keeps_all("prumerge")


def test_what_holds_of_pruners() -> None:
    hold("prumerge(keep=5)", moves=False, nests=False)
    hold("prumerge(keep=5, plus=True)", moves=False, nests=False)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl"])
def test_rows_of_a_batch_answer_as_alone(family: str) -> None:
    rows_answer_as_alone("prumerge", family)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="'prumerge' makes tokens sums of several"):
        vtokens.attach(model("mllama", "pruned"), "prumerge")
    with pytest.raises(ValueError, match="keep=0 keeps nothing"):
        vtokens.attach(model("llava", "pruned"), "prumerge(keep=0)")
