"""Towers that nobody can look into: what asks for their scores is refused, and all else works, videos included.

They are timm's, so that these tests run where it imports: tests/environments/test_timm.py sees to that.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import GREEDY, both, check_tokens
from tests.engine.test_pruned_equals_masked import check_forward
from tests.families import BLIND, build, image, inputs
from tests.strategies.helpers import pair
from vtokens.adapters import adapter_for
from vtokens.core.compat import as_cache, returned_cache

pytestmark = [pytest.mark.skipif(not BLIND, reason="timm does not import"), pytest.mark.usefixtures("no_grad")]
SPECS = ["uniform(keep=3)", "fastv(keep=0.4, layer=2)", "random(keep=0.6)+fastv(keep=0.5, layer=1)"]


def clips(side: str = "left") -> dict[str, Any]:
    """A prompt with a video of three frames, an image and another video; one with an image, one with a video.

    Images are a thumbnail and two tiles each, 2 x 2 tokens as a frame.
    """
    processor = pair("perception_lm")[1]
    pixels = torch.cat([inputs(processor, ["x"], [[image(60, 60, seed=n)]])["pixel_values"][0] for n in range(15)])
    still, video = "<image>" * 12, "<video>" * 12
    prompts = [f"See {video} and {still} or {video} what?", f"{still} is it red?", f"How many? {video}"]
    ids = processor.tokenizer(prompts, return_tensors="pt", padding=True, padding_side=side)
    shots = pixels.unflatten(0, (5, 3))
    return {**ids, "pixel_values": shots[:2], "pixel_values_videos": shots[2:]}


@pytest.mark.parametrize("family", BLIND)
@pytest.mark.parametrize("spec", ["cls(keep=0.5)", "uniform(keep=0.9)+todre(keep=0.5)", "cls(keep=0.5, layers=(-1,))"])
def test_what_asks_for_scores_is_refused(family: str, spec: str) -> None:
    target = build(family)[0]
    with pytest.raises(ValueError, match=r"'(cls|todre)' reads .* nothing inside the TimmWrapperModel of"):
        vtokens.attach(target, spec)
    vtokens.attach(target, "cls(keep=1.0)").detach()
    assert not adapter_for(target).tower.blocks


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("spec", SPECS)
def test_pruned_equals_masked(spec: str, side: str) -> None:
    """Videos and images of one prompt go through one feature call."""
    target = model("perception_lm", "pruned")
    report = check_forward(clips(side), target, model("perception_lm", "plain", "eager"), spec)
    found = [[(part.picture.modality, part.picture.grids) for part in row.pictures] for row in report.samples]
    still, clip = ("image", ((1, 2, 2),) * 3), ("video", ((3, 2, 2),))
    assert found == [[still, clip, clip], [still], [clip]]
    with vtokens.attach(target, "uniform(keep=1.0)"):
        same = target(**clips(side)).logits
    assert torch.equal(same, model("perception_lm", "plain")(**clips(side)).logits)


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_return_sequences": 3, "do_sample": True}])
def test_copies_of_samples_with_several_videos_are_refused(options: dict[str, Any]) -> None:
    """Transformers gives them frames of the wrong ones, without strategies too: a copy is not like its row alone."""
    target, batch = model("perception_lm", "pruned"), clips()
    batch.pop("pixel_values")
    batch = {name: part[:1] for name, part in batch.items() if name != "pixel_values_videos"} | {
        "pixel_values_videos": batch["pixel_values_videos"][:2]
    }
    still = target.config.image_token_id
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["input_ids"] == still, 65)
    alike = {name: part.repeat(2, *[1] * (part.dim() - 1)) for name, part in batch.items()}
    with vtokens.attach(target, "uniform(keep=0.5)"):
        with pytest.raises(ValueError, match=r"has several videos and [23] beams or returned sequences"):
            target.generate(**batch, **options, max_new_tokens=2)
        once, twice = target(**batch).logits, target(**alike).logits  # rows that are alike are no copies
    torch.testing.assert_close(twice, once.expand_as(twice), rtol=0, atol=1e-4)
    plain, copies = (
        model("perception_lm", "plain"),
        {name: part.repeat_interleave(2, 0) for name, part in batch.items()},
    )
    assert (plain(**copies).logits - plain(**batch).logits).abs().amax() > 0.01


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_generated_like_masked(options: dict[str, Any]) -> None:
    """One video a prompt at most: with several, beams are refused."""
    batch = {name: part[1:] if name != "pixel_values" else part[1:2] for name, part in clips().items()}
    batch["pixel_values_videos"] = batch["pixel_values_videos"][1:]
    new = {"max_new_tokens": 3, "min_new_tokens": 3}
    got, expected, report = both("perception_lm", batch, SPECS[-1], **{**GREEDY, **options, **new})
    assert report.samples[0].visual_tokens[-1] < report.samples[0].visual_tokens[0]
    check_tokens(got, expected, 3)


def test_features_made_before_are_of_the_modality_they_are_used_for() -> None:
    """The feature call itself cannot tell."""
    target, batch = model("perception_lm", "pruned"), clips()
    with vtokens.attach(target, "uniform(keep=3)") as handle:
        expected = target(**batch).logits
        made = {
            modality: target.model.get_image_features(batch.pop(name), return_dict=True)
            for modality, name in (("image", "pixel_values"), ("video", "pixel_values_videos"))
        }
        assert torch.equal(target(**batch, mm_encoder_outputs=made).logits, expected)
        assert [part.picture.modality for part in handle.report().samples[0].pictures] == ["image", "video", "video"]


def test_a_second_turn_brings_a_video() -> None:
    """Behind a pruned one, and compared with one that is fed whole."""
    target, batch = model("perception_lm", "pruned"), clips()
    first = {name: part[2:] for name, part in batch.items() if name != "pixel_values"}
    length = int(first["attention_mask"].sum())
    first = {name: part[:, -length:] if part.dim() == 2 else part for name, part in first.items()}
    again = {
        "attention_mask": torch.ones(1, 2 * length, dtype=torch.long),
        "pixel_values_videos": batch["pixel_values_videos"][:1],
    }
    with vtokens.attach(target, "uniform(keep=1.0)"):
        whole = target(
            input_ids=first["input_ids"].repeat(1, 2), attention_mask=again["attention_mask"],
            pixel_values_videos=torch.cat([first["pixel_values_videos"], again["pixel_values_videos"]]),
        ).logits  # fmt: skip
    with vtokens.attach(target, "uniform(keep=0.999)"):  # which rounds up to all of them, and does its work
        cache = returned_cache(target(**first, use_cache=True))
        turn = target(input_ids=first["input_ids"], **again, **as_cache(target, cache)).logits
    torch.testing.assert_close(turn, whole[:, length:], rtol=0, atol=1e-4)
    with vtokens.attach(target, "uniform(keep=3)") as handle:
        cache = returned_cache(target(**first, use_cache=True))
        target(input_ids=first["input_ids"], **again, **as_cache(target, cache))
        assert handle.report().samples[0].visual_tokens[0] == 3


def test_a_noised_video_is_encoded_as_one() -> None:
    """Contrasts change pixels in the call that both modalities share."""
    target, batch = model("perception_lm", "pruned"), clips()
    plain = target.generate(**batch, **GREEDY)
    with vtokens.attach(target, "vcd(steps=900, alpha=2.0, beta=0.0)+uniform(keep=2)") as handle:
        contrasted = target.generate(**batch, **GREEDY)
        assert handle.report().samples[0].visual_tokens[0] == 6
    assert not torch.equal(contrasted, plain)


@pytest.mark.parametrize("size", [(256, 256), (130, 190)])
def test_cells_of_fast_vlm_are_what_its_tower_makes(size: tuple[int, int]) -> None:
    target = model("fast_vlm", "pruned")
    pixels = torch.randn(2, 3, *size)
    features = target.model.get_image_features(pixels, return_dict=True)
    found = adapter_for(target).pictures("image", {"pixel_values": pixels})
    assert [part.grids[0][1:] for part in found] == [tuple(features.last_hidden_state.shape[-2:])] * 2
    assert [len(part) for part in found] == [len(part) for part in features.pooler_output]
