"""VisionZip against what its release makes of stored inputs, and against loops over tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vtokens
from tests.engine.cases import model
from tests.limits import rounding
from tests.strategies.invariants import Shown, counts_hold, drawn, hold, keeps_all
from tests.strategies.made import made, rows_answer_as_alone, tensor

# What the released selection gives (its code as W1nd55/VisionZip-exp carries it, commit 15538171, the branch for a
# batch of images) for attention (2, 4, 64) of [CLS], softmax of 3 * normal, keys (2, 4, 64, 8), normal plus a common
# vector, and features (2, 64, 6), normal; torch seed 7. Dominant + contextual without [CLS]: 9 + 4, 20 + 7, 5 + 16.
RELEASE = np.load(Path(__file__).parent / "parity" / "visionzip.npz")


@pytest.mark.parametrize(("case", "dominant", "contextual"), [("a", 9, 4), ("b", 20, 7), ("c", 5, 16)])
def test_the_release_makes_the_same_tokens(case: str, dominant: int, contextual: int) -> None:
    count = dominant + contextual
    pictures = [
        Shown(tensor(hidden), tensor(attention.mean(0)), keys=tensor(keys.swapaxes(0, 1)))
        for hidden, attention, keys in zip(RELEASE["hidden"], RELEASE["attention"], RELEASE["keys"], strict=True)
    ]
    for row, (places, tokens) in enumerate(
        made(f"visionzip(keep={count}, contextual={contextual / count})", *pictures)
    ):
        best = RELEASE[f"dominant_{case}"][row].tolist()
        assert set(best) < set(places)
        assert len(places) == count
        others = [slot for slot, place in enumerate(places) if place not in best]
        expected = RELEASE[f"contextual_{case}"][row]
        np.testing.assert_allclose(tokens[others], expected, rtol=0, atol=rounding(8.0, 64, 2))
        kept = [slot for slot, place in enumerate(places) if place in best]
        np.testing.assert_array_equal(tokens[kept], RELEASE["hidden"][row][best].astype(np.float64))


def by_loops(picture: Shown, count: int, contextual: int) -> tuple[list[int], np.ndarray]:
    """The method in float64, token by token."""
    tokens, scores = picture.tokens.double().numpy(), np.asarray(picture.saliency)
    keys = picture.keys.double().numpy().mean(1)
    best = sorted(range(len(scores)), key=lambda one: (-scores[one], one))[: count - contextual]
    rest = [one for one in range(len(scores)) if one not in best]
    targets = rest[:: max(1, len(rest) // contextual)][:contextual] if contextual else []
    joined: dict[int, list[int]] = {one: [] for one in targets}
    for one in rest:
        if targets and one not in targets:
            like = [keys[one] @ keys[t] / np.linalg.norm(keys[one]) / np.linalg.norm(keys[t]) for t in targets]
            joined[targets[int(np.argmax(like))]].append(one)
    made_of = {one: tokens[one] for one in best}
    for one, own in joined.items():
        made_of[one] = tokens[one] + (np.mean([tokens[other] for other in own], axis=0) if own else 0)
    places = sorted(made_of)
    return places, np.stack([made_of[one] for one in places])


@pytest.mark.parametrize("share", [0.0, 0.15625, 0.4, 1.0])
def test_sums_are_those_of_loops(share: float) -> None:
    """In a ragged batch, with as many contextual tokens as the share rounds to, a half up."""
    pictures = [drawn(1, 23), drawn(2, 40), drawn(3, 11)]
    for picture, (places, tokens) in zip(
        pictures, made(f"visionzip(keep=7, contextual={share})", *pictures), strict=True
    ):
        expected, sums = by_loops(picture, 7, int(7 * share + 0.5))
        assert places == expected
        np.testing.assert_allclose(tokens, sums, rtol=0, atol=rounding(6.0, 40, 2))


def test_the_default_split_is_that_of_the_release() -> None:
    """64 tokens are 54 that are salient and 10 that others are added to; all that is left over goes into one."""
    picture = drawn(4, 200)
    ((places, _),) = made("visionzip(keep=64)", picture)
    assert len(set(np.argsort(-picture.saliency.numpy())[:54]) & set(places)) == 54
    assert len(places) == 64


def test_targets_that_nothing_joins_stay_as_they_are() -> None:
    """Where dominant and contextual tokens are all there are."""
    picture = drawn(5, 12)
    ((places, tokens),) = made("visionzip(keep=12, contextual=0.5)", picture)
    assert places == [*range(12)]
    np.testing.assert_array_equal(tokens, picture.tokens.double().numpy())


def test_what_holds_of_pruners() -> None:
    hold("visionzip(keep=5)", moves=False, nests=False)
    counts_hold("visionzip(contextual=0.5)", drawn(6, 14))
    keeps_all("visionzip")


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl"])
def test_rows_of_a_batch_answer_as_alone(family: str) -> None:
    rows_answer_as_alone("visionzip(keep=0.3, contextual=0.4)", family)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"contextual=1.5 is out of range: a share in \[0, 1\] is allowed"):
        vtokens.attach(model("llava", "pruned"), "visionzip(contextual=1.5)")
    with pytest.raises(ValueError, match="'visionzip' makes tokens sums of several"):
        vtokens.attach(model("mllama", "pruned"), "visionzip")
    vtokens.attach(model("mllama", "pruned"), "visionzip(contextual=0.0)").detach()
