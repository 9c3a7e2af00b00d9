"""`nuwa` against the released code and slow loops in float64; its two stages, and what must hold of every pruner."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vtokens
from tests.limits import close
from tests.strategies.helpers import pair, report, three_rows
from tests.strategies.invariants import Shown, drawn, hold, keeps_all, visuals
from tests.strategies.made import merged
from vtokens.strategies.merge.nuwa import Nuwa

STORED = Path(__file__).parent / "parity" / "nuwa.npz"


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    """What the release gave, Man-PaperRejected/Nuwa at 2a4427f: `prune_vision_tokens` of nuwa/clip_encoder.py, the same
    features for likeness and for what is gathered, in float32, of two grids of 6 x 8 cells of 16 channels, distances
    up to 3 cells, the quantile .55; 9 of the cells (one candidate a square), and 20 (two)."""
    with np.load(STORED) as found:
        return {name: torch.from_numpy(found[name]) for name in found.files}


def slow(picture: Shown, count: int, reach: float, guarded: float) -> tuple[list[int], np.ndarray]:
    """What stays, and what it becomes: one cell at a time, in float64."""
    assert picture.grid is not None
    _, high, wide = picture.grid
    tokens, saliency = picture.tokens.double().numpy(), np.asarray(picture.saliency, dtype=np.float64)
    cells = [(t, y, x) for t in range(picture.grid[0]) for y in range(high) for x in range(wide)]
    squares: dict[Any, list[int]] = {}
    for number, (t, y, x) in enumerate(cells):
        squares.setdefault((t, y // 2, x // 2), []).append(number)
    deep = -(-count // len(squares))
    first = [one for part in squares.values() for one in sorted(part, key=lambda one: -saliency[one])[:deep]]
    later = [one for one in range(len(cells)) if one not in first]
    order = [*sorted(first, key=lambda one: -saliency[one]), *sorted(later, key=lambda one: -saliency[one])]
    kept = sorted(order[:count])
    bound = np.quantile(saliency[kept], guarded)
    unit, out = tokens / np.linalg.norm(tokens, axis=1, keepdims=True), []
    for anchor in kept:
        gathered, total = np.zeros_like(tokens[0]), 1e-8
        for other, (t, y, x) in enumerate(cells):
            if t == cells[anchor][0]:
                apart = np.hypot(y - cells[anchor][1], x - cells[anchor][2])
                weight = max(0.0, unit[anchor] @ unit[other]) * max(0.0, 1 - apart / reach**0.5)
                total += weight
                gathered += weight * tokens[other] if other != anchor else 0
        out.append(tokens[anchor] + (gathered / total if saliency[anchor] < bound else 0))
    return kept, np.stack(out)


def test_the_released_code_gives_the_same_features(stored: dict[str, torch.Tensor]) -> None:
    """Where cells fill their squares: anchors, and what they gather."""
    pictures = [Shown(one, own, grid=(1, 6, 8)) for one, own in zip(stored["tokens"], stored["saliency"], strict=True)]
    for count, features, places in ((9, "few", "few_at"), (20, "many", "many_at")):
        strategy = Nuwa(keep=count, layer=0, reach=9.0)
        selection, got = merged(strategy, visuals(strategy, pictures))
        assert [row.nonzero()[:, 0].tolist() for row in selection.keep] == stored[places].tolist()
        close(torch.stack(got), stored[features], 48, chain=2)


@pytest.mark.parametrize("count", [2, 6, 13])
def test_anchors_and_what_they_gather_are_those_of_loops(count: int) -> None:
    """Odd grids, a video of two frames, several sizes in one batch."""
    pictures = [drawn(1, 15, grid=(1, 3, 5)), drawn(2, 24, grid=(2, 3, 4)), drawn(3, 16, grid=(1, 4, 4))]
    strategy = Nuwa(keep=count, layer=0, reach=6.0, guarded=0.4)
    selection, features = merged(strategy, visuals(strategy, pictures))
    for row, (picture, got) in enumerate(zip(pictures, features, strict=True)):
        kept, expected = slow(picture, count, 6.0, 0.4)
        assert selection.keep[row].nonzero()[:, 0].tolist() == kept
        close(got, torch.from_numpy(expected).float(), 24, chain=2)


@pytest.mark.parametrize("keep", [0.25, 0.75, 4])
def test_the_average_over_layers_is_what_was_asked_for(keep: Any) -> None:
    """Four layers: 1.75 times as many through the first half and a quarter through the second, or all and the rest."""
    for sample in report(pair("llava")[0], three_rows("llava"), f"nuwa(keep={keep})").samples:
        asked = sum(4 if keep == 4 else int(16 * keep + 0.5) for _ in sample.pictures)
        first, second = sample.visual_tokens[0], sample.visual_tokens[-1]
        assert list(sample.visual_tokens) == [first, first, second, second]
        assert (first + second) / 2 == asked
        assert first == min(16 * len(sample.pictures), asked * 7 // 4)


def test_what_holds_for_every_pruner() -> None:
    hold("nuwa(keep=5, layer=0)", moves=False, nests=False)
    keeps_all("nuwa", ["llava"])


@pytest.mark.parametrize(("spec", "says"), [("reach=0.0", "reach"), ("guarded=1.5", "guarded"), ("layer=4", "layer=4")])
def test_settings_out_of_range_are_refused(spec: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        vtokens.attach(pair("llava")[0], f"nuwa({spec})")
