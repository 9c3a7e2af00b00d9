"""Calls whose parts do not fit each other, and budgets of next to nothing: refused, or right."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.media import clip, media
from tests.engine.test_pruned_equals_masked import check_forward
from tests.families import ALL, image, inputs

pytestmark = pytest.mark.usefixtures("no_grad")
SPECS = ("cls(keep=0.5)", "fastv(keep=0.5, layer=1)")


def placeholder(target: Any) -> int:
    config = target.config
    return int(getattr(config, "image_token_id", None) or config.image_token_index)


def changed(batch: dict[str, Any], row: int, token: int, more: bool) -> dict[str, Any]:
    """The batch with one placeholder more in a row, at its end, or the last one less."""
    ids = batch["input_ids"].clone()
    kinds = batch.get("mm_token_type_ids", torch.zeros_like(ids)).clone()
    at = ids.shape[1] - 1 if more else int((ids[row] == token).nonzero()[-1])
    ids[row, at] = token if more else ids[row][(ids[row] != token) & (kinds[row] == 0)][-1]
    kinds[row, at] = int(more)
    return batch | {"input_ids": ids} | ({"mm_token_type_ids": kinds} if "mm_token_type_ids" in batch else {})


@pytest.mark.parametrize("family", ALL)
def test_placeholders_that_do_not_match_the_pictures(family: str) -> None:
    """One too many and one too few; also where another row makes up for it, which transformers does not notice."""
    target = model(family, "pruned")
    batch = dict(inputs(family, ["what is it?"] * 2, [[image(84, 56, seed=at)] for at in range(2)]))
    token = placeholder(target)
    wrong = [changed(batch, 0, token, more) for more in (True, False)]
    wrong.append(changed(wrong[0], 1, token, False))
    for spec in SPECS:
        with vtokens.attach(target, spec):
            expected = target(**batch).logits
            for one in wrong:
                with pytest.raises((ValueError, RuntimeError), match=r"token|placeholder|shape mismatch"):
                    target(**one)
            assert torch.equal(target(**batch).logits, expected)


FRAMELESS = (
    "cls(keep=1)",
    "uniform(keep=0.01)",
    "holitom(keep=1)",
    "evs(keep=2)+cls(keep=1)",
    "fastv(keep=1, layer=1)",
)
MERGED = ("fastvid(keep=1)", "llava_scissor(keep=1)")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("spec", [*FRAMELESS, *MERGED])
def test_a_budget_that_leaves_frames_empty(family: str, spec: str) -> None:
    """One token of a video is left: what was dropped is as if masked, and the answer goes on."""
    batch = media(family, [["what happens? ", clip(6)], [clip(4, seed=3), " and then?"]])
    target = model(family, "pruned")
    if spec not in MERGED:  # which make sums of all tokens, held against sums in test_blended.py
        check_forward(batch, target, model(family, "plain", "eager"), spec)
    with vtokens.attach(target, spec) as handle:
        made = target.generate(
            **batch, max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        assert all(torch.isfinite(step).all() for step in made.logits)
        assert [sample.visual_tokens[-1] for sample in handle.report().samples] == [1, 1]


@pytest.mark.parametrize(("spec", "least"), [("evs(keep=1)", 6), ("vidcom2(keep=1)", 6)])
def test_frames_that_a_strategy_never_leaves_empty(spec: str, least: int) -> None:
    """Six frames of six tokens: vLLM's EVS keeps the first whole, and VidCom2 a token of each."""
    batch = media("qwen2_5_vl", [["what happens? ", clip(6)]])
    report = check_forward(batch, model("qwen2_5_vl", "pruned"), model("qwen2_5_vl", "plain", "eager"), spec)
    assert report.samples[0].visual_tokens[-1] == least
