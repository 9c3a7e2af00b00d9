"""LLaVA with Pixtral's tower, which packs the pictures of a call into one row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

import vtokens
from tests.engine.test_pruned_equals_masked import check_forward
from tests.families import image, inputs
from tests.families.adapted import PIXTRAL
from tests.families.configs import LLAMA
from tests.limits import close_pass
from tests.strategies.helpers import pair, probe
from vtokens.strategies import Saliency

pytestmark = pytest.mark.usefixtures("no_grad")
SPECS = ["cls(keep=0.3)", "fastv(keep=0.4, layer=2)", "cls(keep=0.6)+fastv(keep=0.5, layer=1)"]


def tiny(attention: str = "sdpa") -> Any:
    """The same weights for either attention."""
    tok = pair("mistral3")[1].tokenizer
    config = AutoConfig.for_model(
        "llava", text_config={**LLAMA, "vocab_size": len(tok)}, vision_config={**PIXTRAL, "patch_size": 28},
        vision_feature_layer=-1, vision_feature_select_strategy="full", image_token_index=tok.image_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForImageTextToText.from_config(config, attn_implementation=attention).eval()


def batch(*seeds: int) -> dict[str, Any]:
    """Two pictures of different sizes in the first row, one in the second; each is as large as for a `mistral3`."""
    sizes = ((100, 60), (60, 130), (84, 84))
    first, second, third = (image(*size, seed=seed) for size, seed in zip(sizes, seeds, strict=True))
    prompts = ["Look <image> and <image> at it", "what?"]
    return dict(inputs("mistral3", prompts, [[first, second], [third]]))


@pytest.mark.parametrize("spec", SPECS)
def test_pruned_equals_masked(spec: str) -> None:
    pruned = tiny()
    report = check_forward(batch(0, 1, 2), pruned, tiny("eager"), spec)
    assert [[part.picture.grids for part in sample.pictures] for sample in report.samples] == [
        [((1, 3, 4),), ((1, 4, 2),)],
        [((1, 3, 3),)],
    ]


def test_keeping_all_changes_no_bit() -> None:
    target, plain = tiny(), tiny()
    with vtokens.attach(target, "cls(keep=1.0)"):
        assert torch.equal(target(**batch(0, 1, 2)).logits, plain(**batch(0, 1, 2)).logits)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_scores_are_a_pictures_own(attention: str) -> None:
    """Another picture beside it moves nothing; scores are those that an eager tower's maps have."""
    target, asked = tiny(attention), Saliency()
    before, after = (probe(target, batch(0, seed, 2), asked)[asked] for seed in (1, 7))
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [True, False, True]
    given = batch(0, 1, 2)
    tower = tiny("eager").model.vision_tower
    maps = tower(given["pixel_values"], image_sizes=given["image_sizes"], output_attentions=True).attentions[-1]
    received = maps[0].mean(0).sum(0)
    close_pass(torch.cat(before) / torch.cat(before).sum(), received / received.sum())


def test_a_noised_picture_is_noised_alone() -> None:
    """VCD in a batch is VCD alone, though pictures of a call are padded to the largest."""
    target, given = tiny(), batch(0, 1, 2)
    alone = {
        "input_ids": given["input_ids"][1:], "attention_mask": given["attention_mask"][1:],
        "pixel_values": given["pixel_values"][2:, :, :84, :84], "image_sizes": given["image_sizes"][2:],
    }  # fmt: skip
    with vtokens.attach(target, "vcd(beta=0.0, steps=500)"):
        close_pass(target(**given).logits[1, -1], target(**alone).logits[0, -1], passes=2)
