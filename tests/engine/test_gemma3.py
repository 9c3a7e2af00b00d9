"""Gemma 3: images that see themselves both ways, windows that cut, two kinds of angles, scores pooled as features."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import check_rows_alone, check_rows_of_attention, ragged
from tests.families import build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import probe
from tests.strategies.test_mminference import RUNS
from vtokens.adapters import adapter_for
from vtokens.strategies import Saliency
from vtokens.tables.patterns import Head, Patterns

pytestmark = pytest.mark.usefixtures("no_grad")
FAMILY = "gemma3"
LAYERS = ["sliding_attention"] * 3 + ["full_attention"]


@cache
def windowed(window: int) -> Any:
    """A model whose layers are mostly windows of so many positions; the same weights for each."""
    return build(FAMILY, text_config={"layer_types": LAYERS, "sliding_window": window})[0]


@pytest.mark.parametrize("spec", ["cls(keep=0.5)+fastv(keep=0.5, layer=2)", "fastv(keep=0.3, layer=1)", "todre"])
@pytest.mark.parametrize("window", [12, 4096])
def test_rows_of_a_batch_answer_as_alone(spec: str, window: int) -> None:
    if spec == "todre" and window == 12:
        pytest.skip("it reads several rows of attention, which is refused where a window cuts")
    check_rows_alone(windowed(window), FAMILY, spec)


def test_scores_are_pooled_as_features_are() -> None:
    target, batch = model(FAMILY, "pruned"), ragged(FAMILY)
    eager = build(FAMILY, attn_implementation="eager")[0]
    maps = eager.model.vision_tower(batch["pixel_values"], output_attentions=True).attentions[-1].mean(1).sum(1)
    places = torch.arange(64).view(8, 8)
    joined = places.view(4, 2, 4, 2).permute(0, 2, 1, 3).reshape(16, 4)
    scores = probe(target, batch, Saliency())[Saliency()]
    close_pass(torch.stack(list(scores)), maps[:, joined].mean(-1))


@pytest.mark.parametrize("rows", ["last", "text", "visual"])
@pytest.mark.parametrize("layer", [0, 1])
def test_attention_is_that_of_the_model(rows: Any, layer: int) -> None:
    """Rows inside an image see the rest of it: what they give is read off the eager model's whole matrix."""
    check_rows_of_attention(FAMILY, layer, rows)


def test_a_prompt_without_kinds_is_causal() -> None:
    """As the model itself has it."""
    target, batch = model(FAMILY, "pruned"), ragged(FAMILY)
    kinds = batch.pop("token_type_ids")
    causal = target(**batch).logits
    assert (causal - target(**batch, token_type_ids=kinds).logits).abs().max() > 1e-2
    with vtokens.attach(target, "cls(keep=0.99)"):
        close_pass(target(**batch).logits, causal)


def test_what_computes_attention_itself_is_refused(tmp_path: Path) -> None:
    """It would let no token of a picture see those behind it."""
    target, table = model(FAMILY, "plain"), tmp_path / "patterns.json"
    heads = ((Head(RUNS[1], 0.5, 0.1, 0.9),) * 4,) * 4
    Patterns(adapter_for(target).facts.decoder, (16, 16), 0.1, "made up", heads).save(table)
    says = r"'mminference' computes attention to what comes before, and in a Gemma3For\w+ pictures see themselves"
    for spec in (f"mminference(patterns={str(table)!r})", f"cls(keep=0.5)+mminference(patterns={str(table)!r})"):
        with pytest.raises(ValueError, match=says):
            vtokens.attach(target, spec)


def test_a_decoder_that_sees_all_that_follows_is_refused() -> None:
    target = build(FAMILY, text_config={"use_bidirectional_attention": True})[0]
    with pytest.raises(ValueError, match="its layers see all that comes after them"):
        vtokens.attach(target, "uniform(keep=0.5)")


def test_masks_that_the_caller_prepared_are_refused() -> None:
    target, batch = model(FAMILY, "pruned"), ragged(FAMILY)
    batch["attention_mask"] = dict.fromkeys(("full_attention", "sliding_attention"))
    with vtokens.attach(target, "uniform(keep=0.5)"), pytest.raises(ValueError, match="only a 2-D attention_mask"):
        target(**batch)


def test_another_prompt_comes_with_its_kinds() -> None:
    """Without them its pictures would be causal, unlike those of the prompt that it is held against."""
    target, batch = model(FAMILY, "pruned"), dict(inputs(FAMILY, ["Is it <image>?"], [[image(60, 60, seed=1)]]))
    other = {name: batch[name] for name in ("input_ids", "attention_mask")}
    missing = pytest.raises(ValueError, match="the negative prompt has no token_type_ids")
    with vtokens.attach(target, "lqcd") as handle, handle.negative_prompt(**other), missing:
        target(**batch)
