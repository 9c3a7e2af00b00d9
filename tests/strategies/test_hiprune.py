"""HiPrune against what its release keeps of stored inputs, and against loops over the grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.strategies.helpers import kept, pair, probe, three_rows
from tests.strategies.invariants import Shown, hold, keeps_all, picks
from tests.strategies.made import tensor
from vtokens.strategies import Facts, Saliency, parse

# What `encode_images` of HiPrune (its LLaVA code as mmdbhs/HiPrune-fork carries it, commit 78324f31) keeps of 24 x 24
# patches, by attention (heads 2, rows and columns 577) of a deep and of a middle block: softmax of normal plus 1.2
# times a vector common to the rows; torch seeds 1, 4 and 6, the first from 0, 3 and 5 on whose anchors touch no edge.
# Stored are the means over heads and rows, [CLS] dropped. Tokens and alpha as below; in "edge" anchors end rows.
RELEASE = np.load(Path(__file__).parent / "parity" / "hiprune.npz")
MIDDLE = 1


def shown(deep: np.ndarray, middle: np.ndarray, grid: tuple[int, int, int], seed: int = 0) -> Shown:
    tokens = torch.randn(len(deep), 8, generator=torch.Generator().manual_seed(seed))
    words = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed + 1))
    return Shown(
        tokens,
        {(None, "all"): tensor(deep), (MIDDLE, "all"): tensor(middle)},
        torch.zeros(len(deep)),
        None,
        words,
        grid,
    )


@pytest.mark.parametrize(("case", "count", "alpha"), [("a", 192, 0.1), ("b", 64, 0.1), ("c", 128, 0.3)])
def test_the_release_keeps_the_same_tokens(case: str, count: int, alpha: float) -> None:
    picture = shown(RELEASE[f"deep_{case}"], RELEASE[f"middle_{case}"], (1, 24, 24))
    (found,) = picks(f"hiprune(keep={count}, alpha={alpha})", picture)
    assert found == np.flatnonzero(RELEASE[f"kept_{case}"]).tolist()


def test_rows_of_the_picture_end() -> None:
    """Where an anchor is the last of its row, the release takes the first of the next one for its neighbour."""
    picture = shown(RELEASE["deep_edge"], RELEASE["middle_edge"], (1, 24, 24))
    (found,) = picks("hiprune(keep=96)", picture)
    release = set(np.flatnonzero(RELEASE["kept_edge"]).tolist())
    last, first = 5 * 24 + 23, 20 * 24
    assert {last, last - 1, last - 24, last + 24, first, first + 1, first - 24, first + 24} <= set(found) & release
    assert {last + 1} <= release - set(found) <= {last + 1, first - 1}  # the other is a register here
    assert len(found) == len(release) == 96


def by_loops(deep: np.ndarray, middle: np.ndarray, grid: tuple[int, int, int], count: int, alpha: float) -> list[int]:
    """The method in float64, cell by cell; a share of anchors whose buffers pass the budget takes the best of them."""
    _, height, width = grid
    anchors = sorted(range(len(middle)), key=lambda one: -middle[one])[: round(count * alpha / 5)]
    beside = set()
    for one in anchors:
        frame, y, x = one // (height * width), one // width % height, one % width
        for down, across in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            if 0 <= y + down < height and 0 <= x + across < width:
                beside.add((frame * height + y + down) * width + x + across)
    buffers = sorted(beside - set(anchors), key=lambda one: -middle[one])
    others = [one for one in sorted(range(len(deep)), key=lambda one: -deep[one]) if one not in {*anchors, *buffers}]
    return sorted([*anchors, *buffers, *others][:count])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_cells_are_those_of_loops(alpha: float) -> None:
    """In a ragged batch of grids and of frames."""
    made, grids, pictures = np.random.default_rng(3), [(1, 5, 7), (1, 4, 4), (3, 3, 4)], []
    scores = [made.random((2, int(np.prod(grid)))) for grid in grids]
    pictures = [shown(*parts, grid) for parts, grid in zip(scores, grids, strict=True)]
    found = picks(f"hiprune(keep=13, alpha={alpha})", *pictures)
    assert found == [by_loops(*parts, grid, 13, alpha) for parts, grid in zip(scores, grids, strict=True)]


def test_text_tokens_are_those_most_like_the_mean_word() -> None:
    """HiPrune++: K / (1 + beta) tokens by attention, the others by cosine among what is left."""
    made = np.random.default_rng(5)
    deep, middle = made.random((2, 35))
    picture = shown(deep, middle, (1, 5, 7))
    assert picture.text is not None
    base = by_loops(deep, middle, (1, 5, 7), 10, 0.5)
    tokens, mean = picture.tokens.double().numpy(), picture.text.double().numpy().mean(0)
    like = tokens @ mean / np.linalg.norm(tokens, axis=1)
    words = [one for one in np.argsort(-like) if one not in base][:5]
    assert picks("hiprune(keep=15, alpha=0.5, text=0.5)", picture) == [sorted([*base, *map(int, words)])]


@pytest.mark.parametrize(
    ("depth", "has_cls", "block"), [(24, True, 8), (32, False, 15), (4, True, 1), (27, False, 12), (1, True, 0)]
)
def test_the_middle_block(depth: int, has_cls: bool, block: int) -> None:
    """l = 9 of CLIP's 24 and 16 of Qwen2.5-VL's 32, counted from 1, as the paper sets them."""
    (strategy,) = parse("hiprune")
    assert strategy.prepare(Facts("x", depth=2, tower_depth=depth, has_cls=has_cls)) == block


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_models_keep_what_their_towers_look_at(family: str) -> None:
    """Without anchors, what the feature block attends to by all rows; a named block is the one that is asked."""
    target, batch = pair(family)[0], three_rows(family)
    scores = probe(target, batch, Saliency(rows="all"))[Saliency(rows="all")]
    assert kept(target, batch, "hiprune(keep=4, alpha=0.0)") == [sorted(s.topk(4).indices.tolist()) for s in scores]
    first = probe(target, batch, Saliency((0,), rows="all"))[Saliency((0,), rows="all")]
    for found, part in zip(kept(target, batch, "hiprune(keep=5, alpha=1.0, block=0)"), first, strict=True):
        assert int(part.argmax()) in found


def test_what_holds_of_pruners() -> None:
    for spec in ("hiprune(keep=5)", "hiprune(keep=5, alpha=0.9)", "hiprune(keep=5, text=0.5)"):
        hold(spec, moves=False, nests=False)
    keeps_all("hiprune", text=0.1)


def test_what_it_cannot_do_is_refused() -> None:
    target = model("llava", "pruned")
    for spec, message in (
        ("hiprune(block=4)", r"block=4 is out of range .* the nearest is 3"),
        ("hiprune(alpha=2)", r"alpha=2.* is out of range"),
        ("hiprune(text=-1.0)", r"text=-1.0 is out of range"),
    ):
        with pytest.raises(ValueError, match=message):
            vtokens.attach(target, spec)
    with pytest.raises(ValueError, match="compares visual tokens with the text"):
        vtokens.attach(model("mllama", "pruned"), "hiprune(text=0.1)")
