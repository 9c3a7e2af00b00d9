"""Strategies before the tower, drawn: what the decoder sees is a model that masks the copies, on the same features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vtokens
from tests.engine.cases import FACTS, MODES, Case, cases, examples, mixed, model
from tests.engine.compare import check_tokens, sums
from tests.engine.masked import dropped_keys, masking
from tests.engine.state import snapshot
from tests.engine.test_pruned_equals_masked import NEW, check_forward, generate
from tests.families import ALL, inputs
from vtokens.adapters import adapter_for
from vtokens.strategies import Merger, Selection, Visuals, get, list_strategies, parse
from vtokens.strategies.prune.downsample import Downsample
from vtokens.strategies.prune.pixelprune import PixelPrune

SHRINKING = ("downsample", "pixelprune")


@dataclass(frozen=True)
class _AllSmaller(Downsample):
    """The same before the tower; the decoder is given every copy."""

    def at_prompt(self, visuals: Visuals) -> Selection | None:
        return None


@dataclass(frozen=True)
class _AllRepeated(PixelPrune):
    """The same before the tower; the decoder is given every copy."""

    def at_prompt(self, visuals: Visuals) -> Selection | None:
        return None


def everything(strategy: Merger) -> Merger:
    """A strategy that shows the tower as much, and drops nothing behind it."""
    if isinstance(strategy, Downsample):
        return _AllSmaller(strategy.keep)
    assert isinstance(strategy, PixelPrune)
    return _AllRepeated(strategy.threshold, strategy.metric)


def flat(size: tuple[int, int], seed: int) -> Image.Image:
    """A picture of large flat areas, which repeat in every family's tokens."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 2, (2, 2, 3)) * 255
    return Image.fromarray(cells.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)


def batch_of(family: str, case: Case) -> dict[str, Any]:
    """The batch of a case, its pictures flat."""
    pictures = [
        [flat(size, case.seed + 10 * row + number) for number, size in enumerate(group)]
        for row, group in enumerate(case.sizes)
    ]
    return dict(inputs(family, list(case.prompts), pictures, case.side))  # type: ignore[arg-type]


def blended(target: Any, batch: dict[str, Any]) -> bool:
    """Whether OneVision scales down features of a picture: one by itself in its sample, of more tiles than it keeps."""
    most = int(target.config.vision_aspect_ratio.removeprefix("anyres_max_"))
    tiles = batch["pixel_values"].flatten(2).abs().sum(-1).gt(0).sum(1) - 1
    return bool((tiles > 1.21 * most).any())


TERMS = st.one_of(
    st.sampled_from([0.1, 0.25, 0.5, 0.9]).map(lambda keep: f"downsample(keep={keep})"),
    st.sampled_from([0.0, 0.05, 0.5, 3.0]).map(lambda threshold: f"pixelprune(threshold={threshold})"),
)


@pytest.mark.fuzz
@pytest.mark.parametrize("family", ALL)
def test_copies_that_are_dropped_are_masked(family: str) -> None:
    """Logits, caches and generated tokens; families whose tower is shown whole pictures refuse, and are as before."""

    @settings(max_examples=-(-examples(family) // 4))
    @given(cases(), TERMS)
    @torch.no_grad()
    def holds(case: Case, term: str) -> None:
        pruned, reference = model(family, "pruned", case.attention[0]), model(family, "plain", case.attention[1])
        (strategy,) = parse(term)
        before = snapshot(pruned)
        if any(strategy.needs(FACTS).pixels not in tower.fewer for tower in adapter_for(pruned).towers.values()):
            with pytest.raises(ValueError, match="is shown whole ones"):
                vtokens.attach(pruned, term)
            assert snapshot(pruned) == before
            return
        case, batch = replace(case, spec=term), batch_of(family, case)
        if family == "llava_onevision" and isinstance(strategy, Downsample) and blended(pruned, batch):
            with vtokens.attach(pruned, term), pytest.raises(ValueError, match="blends"):
                pruned(**batch)
            return
        assert isinstance(strategy, Merger)
        with vtokens.attach(reference, everything(strategy)):
            report = check_forward(batch, pruned, reference, term)
            if mixed(family, case):
                return
            with vtokens.attach(pruned, term) as handle:
                got = generate(pruned, batch, case)
                again = handle.report()
            copies = MODES[case.mode].get("num_beams", 1)
            assert len(again.samples) == copies * len(report.samples)
            valid = batch["attention_mask"].repeat_interleave(copies, dim=0)
            with masking(reference, dropped_keys(again, valid)):
                expected = generate(reference, batch, case)
        check_tokens(got, expected, NEW, sums(pruned))

    holds()


def test_what_is_drawn_is_all_there_is() -> None:
    """A strategy that comes to act before the tower is named here."""
    assert tuple(list_strategies(stage="pixels")) == SHRINKING
    assert all(issubclass(get(name), Merger) for name in SHRINKING)
