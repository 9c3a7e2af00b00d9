"""`vflowopt` against slow loops in float64; its three stages, and what must hold of every pruner."""

from typing import Any

import numpy as np
import pytest
import torch

import vtokens
from tests.limits import close
from tests.strategies.helpers import pair, report, three_rows
from tests.strategies.invariants import Shown, drawn, keeps_all, visuals
from tests.strategies.made import merged
from vtokens.strategies.merge.vflowopt import VFlowOpt


class Seen:
    """Signals of a view, and what else a strategy of several stages asks of the engine: a depth, and notes."""

    def __init__(self, given: Any, depth: int) -> None:
        self._given, self.depth, self._notes = given, depth, dict[int, Any]()

    def notes(self, strategy: object) -> dict[int, Any]:
        return self._notes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._given, name)


def made(strategy: VFlowOpt, *pictures: Shown, filler: float = 0.0) -> tuple[list[list[int]], list[torch.Tensor]]:
    """What the first stage leaves of each picture, and the tokens that it makes of it."""
    seen = visuals(strategy, pictures, filler)
    seen.observed = Seen(seen.observed, 4)  # type: ignore[assignment]
    selection, parts = merged(strategy, seen)
    assert selection.keep.sum(1).tolist() == list(selection.counts or ())
    return [row.nonzero()[:, 0].tolist() for row in selection.keep], parts


def slow(picture: Shown, count: int, side: int) -> tuple[list[int], np.ndarray]:
    """What stays, and what it becomes: one cell at a time, in float64."""
    assert picture.grid is not None
    frames, high, wide = picture.grid
    tokens, saliency = picture.tokens.double().numpy(), np.asarray(picture.saliency, dtype=np.float64)
    squares = [(t, y // side, x // side) for t in range(frames) for y in range(high) for x in range(wide)]
    order = sorted(range(len(squares)), key=lambda one: -saliency[one])
    best = order[: max(0, count - len(set(squares)))]
    rest = [one for one in order if one not in best]
    heads = {square: one for one in reversed(rest) for square in [squares[one]]}
    kept = [*best, *sorted(heads.values(), key=lambda one: -saliency[one])][:count]
    kept += [one for one in rest if one not in kept][: count - len(kept)]
    out = []
    for one in sorted(kept):
        members = [one]
        if one not in best and heads[squares[one]] == one:
            members += [other for other in rest if squares[other] == squares[one] and other not in kept]
        weight = saliency[members] if len(members) > 1 else np.ones(1)
        out.append((weight[:, None] * tokens[members]).sum(0) / weight.sum())
    return sorted(kept), np.stack(out)


@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_what_stays_and_what_it_becomes_are_those_of_loops(count: int, side: int) -> None:
    """Odd grids, a video of two frames, several sizes in one batch, whatever stands in padding."""
    pictures = [drawn(1, 15, grid=(1, 3, 5)), drawn(2, 24, grid=(2, 3, 4)), drawn(3, 16, grid=(1, 4, 4))]
    strategy = VFlowOpt(keep=count, side=side, middle=1.0, last=1.0)
    kept, features = made(strategy, *pictures)
    again, others = made(strategy, *pictures, filler=1e4)
    assert again == kept
    for picture, own, got, other in zip(pictures, kept, features, others, strict=True):
        expected, values = slow(picture, count, side)
        assert own == expected
        close(got, torch.from_numpy(values).float(), 24, chain=2)
        close(other, got, 24, chain=2)


@pytest.mark.parametrize("keep", [0.25, 0.75, 4])
def test_the_average_over_layers_is_what_was_asked_for(keep: Any) -> None:
    """Four layers, the late stages before 1 and 3; rounding moves the sum by less than one token of one layer."""
    spec = f"vflowopt(keep={keep}, middle=0.75, last=0.5)"
    for sample in report(pair("llava")[0], three_rows("llava"), spec).samples:
        asked = sum(4 if keep == 4 else int(16 * keep + 0.5) for _ in sample.pictures)
        assert abs(sum(sample.visual_tokens) / 4 - asked) <= 0.25 * len(sample.pictures)
        assert sample.visual_tokens[0] >= sample.visual_tokens[1] >= sample.visual_tokens[3]
        assert sample.visual_tokens[1] == sample.visual_tokens[2]


def test_what_holds_for_every_pruner() -> None:
    """Features in bfloat16 are chosen as in float32; a batch's rows are as alone; keep=1.0 is the untouched model."""
    pictures = [drawn(1, 15, grid=(1, 3, 5)), drawn(2, 24, grid=(2, 3, 4))]
    strategy = VFlowOpt(keep=6, side=2)
    together, _ = made(strategy, *pictures)
    assert [made(strategy, one)[0][0] for one in pictures] == together
    keeps_all("vflowopt", ["llava"])


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("side=0", "side"), ("middle=0.5, last=0.6", "falling"), ("last=0.0", "two falling"),
        ("layers=(2, 2)", "second stage"), ("layers=(1, 4)", "layers=4"), ("layers=(1,)", "two layers"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(spec: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        vtokens.attach(pair("llava")[0], f"vflowopt({spec})")
