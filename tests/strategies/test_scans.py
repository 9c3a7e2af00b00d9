"""`scans` against slow loops in float64, and `vscan`, which composes it with a cut in the decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vtokens
from tests.limits import close
from tests.strategies.helpers import kept, pair, report, three_rows
from tests.strategies.invariants import Shown, keeps_all, visuals
from tests.strategies.made import merged
from vtokens.core.budget import budget
from vtokens.strategies import Facts, parse
from vtokens.strategies.prune.scans import Scans


def picture(seed: int, grid: tuple[int, int, int], width: int = 12) -> Shown:
    """Gaussian tokens; what the early block and the last one see, which differ."""
    made = torch.Generator().manual_seed(seed)
    tokens = torch.randn(grid[0] * grid[1] * grid[2], width, generator=made)
    early, late = ((2 * torch.randn(len(tokens), generator=made)).softmax(0) for _ in range(2))
    return Shown(tokens, saliency={None: late, 0: early}, grid=grid)


def slow(shown: Shown, count: int, window: int, local: float) -> tuple[list[int], np.ndarray]:
    """The release's selection and averages, a token at a time: windows by the early block, the rest by the last."""
    assert shown.grid is not None
    _, high, wide = shown.grid
    early, late = (shown.saliency[key].double().numpy() for key in (0, None))
    inside: dict[tuple[int, int], list[int]] = {}
    for place in range(high * wide):
        inside.setdefault((place // wide // window, place % wide // window), []).append(place)
    each = int(count * local) // len(inside)
    chosen = [one for part in inside.values() for one in sorted(part, key=lambda one: -early[one])[:each]]
    rest = sorted((one for one in range(high * wide) if one not in chosen), key=lambda one: -late[one])
    stay = sorted([*chosen, *rest[: count - len(chosen)]])
    tokens = shown.tokens.double().numpy()
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    members: dict[int, list[int]] = {one: [one] for one in stay}
    for one in range(len(tokens)):
        if one not in members:
            members[max(stay, key=lambda other: unit[one] @ unit[other])].append(one)
    return stay, np.stack([tokens[members[one]].mean(0) for one in stay])


@pytest.mark.parametrize(
    ("grid", "count", "window", "local"),
    [
        ((1, 24, 24), 96, 6, 0.5),  # as the release has it: 3 in each of 16 windows
        ((1, 5, 7), 11, 3, 0.5),  # windows cut at the edges; five tokens for six windows are none in each
        ((1, 5, 7), 20, 3, 0.7),
        ((1, 8, 8), 9, 4, 0.0),
        ((1, 8, 8), 16, 4, 1.0),
    ],
)
def test_what_stays_and_what_it_becomes_are_those_of_loops(
    grid: tuple[int, int, int], count: int, window: int, local: float
) -> None:
    """In a batch with a shorter picture, whose padding holds nonsense."""
    strategy = Scans(keep=count, window=window, local=local)
    shown = [picture(1, grid), picture(2, (1, 4, 5) if count <= 20 else (1, 10, 12))]
    selection, parts = merged(strategy, visuals(strategy, shown, filler=7.0))
    assert selection.counts == (count, count)
    for row, (one, part) in enumerate(zip(shown, parts, strict=True)):
        stay, expected = slow(one, count, window, local)
        assert selection.keep[row].nonzero()[:, 0].tolist() == stay
        close(part, torch.from_numpy(expected).float(), len(one.tokens))


def test_a_token_that_equals_another_stays_itself() -> None:
    """Two kept tokens of one direction are two tokens, each the mean of itself alone."""
    shown = picture(3, (1, 2, 2))
    tokens = shown.tokens[:1].repeat(4, 1) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    strategy = Scans(keep=2, local=0.0)
    seen = visuals(
        strategy, [Shown(tokens, saliency={None: torch.tensor([0.0, 3, 2, 1]), 0: shown.saliency[0]}, grid=(1, 2, 2))]
    )
    _, (part,) = merged(strategy, seen)
    close(part, torch.stack([tokens[[1, 0, 3]].mean(0), tokens[2]]), 4)


@torch.no_grad()
def test_tiles_share_a_budget_and_what_is_not_merged_is_dropped() -> None:
    """AnyRes: each tile has its own windows and its part; without merging it drops alone, and may be numbered anew."""
    model, batch = pair("llava_next")[0], three_rows("llava_next")
    found = report(model, batch, "scans(keep=0.25, window=2)")
    for row in found.samples:
        for one in row.pictures:
            views = one.picture.view[one.kept[0]]
            whole = np.bincount(one.picture.view[one.picture.view >= 0])
            assert len(views) == budget(one.picture.tokens, 0.25)
            assert np.abs(np.bincount(views, minlength=len(whole)) - 0.25 * whole).max() < 1
    model, batch = pair("llava")[0], three_rows("llava")
    plain = kept(model, batch, "scans(keep=5, merge=false, positions=compact)")
    assert plain == kept(model, batch, "scans(keep=5, window=6)")
    assert plain != kept(model, batch, "scans(keep=5, local=0.0)")
    keeps_all("scans")


@pytest.mark.parametrize("setting", ["local=1.5", "shallow=-0.1", "window=0"])
def test_settings_that_make_no_sense_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=setting.partition("=")[0]):
        parse(f"scans({setting})")


@torch.no_grad()
def test_vscan_is_the_schedule_of_its_release() -> None:
    """96 of 576 tokens, and 32 from layer 16 of 32 on: 64 a layer; the early block is the sixth of 24."""
    scans, cut = parse("vscan")
    facts = Facts("llava", depth=32, tower_depth=24, has_cls=True)
    assert (budget(576, scans.keep), scans.prepare(facts)) == (96, 5)  # type: ignore[attr-defined]
    assert (cut.prepare(facts), cut._left(96, 0)) == ((16,), 32)  # type: ignore[attr-defined]
    assert (16 * 96 + 16 * 32) / 32 == 64
    model, batch = pair("llava")[0], three_rows("llava")
    assert report(model, batch, "vscan(keep=6)").samples[0].visual_tokens == (6, 6, 2, 2)
    with vtokens.attach(model, "vscan(keep=6)") as handle:
        assert handle.strategy == "scans(keep=6)+pyramiddrop(keep=0.3333333333333333, layers=(0.5,), before=())"
