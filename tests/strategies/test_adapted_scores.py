"""Scores of families that need an adapter only, against attention maps of an eager copy of their tower."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.families import build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import llava_scores, pair, probe, qwen_scores, three_rows
from vtokens.adapters import adapter_for
from vtokens.strategies import Saliency


def compare(found: list[Tensor], expected: Tensor) -> None:
    """Scores of pictures one behind the other, up to a common factor."""
    got = torch.cat(found)
    assert expected.std() > 1e-3 * expected.mean()  # or agreement would say nothing
    close_pass(got / got.sum(), expected / expected.sum())


@torch.no_grad()
def maps(family: str, batch: Any, tower: str) -> Tensor:
    """(tiles, patches): what patches get in the last block of an eager copy, from its class token or from all."""
    eager: Any = getattr(build(family, attn_implementation="eager")[0].model, tower)
    square = eager(batch["pixel_values"], output_attentions=True).attentions[-1].mean(1)
    return square[:, 0, 1:] if family == "internvl" else square.sum(1)


def shuffled(family: str, model: Any) -> Tensor:
    """(tokens, 4): which patches of a tile the model's own shuffle puts into each token."""
    numbers = torch.arange(16.0).view(1, 16, 1).repeat(1, 1, 32)
    if family == "internvl":
        out = model.model.pixel_shuffle(numbers.view(1, 4, 4, 32), 0.5)
    else:
        out = model.model.multi_modal_projector.pixel_shuffle(numbers)
    return out.reshape(4, 4, 32)[..., 0].long()


@pytest.mark.parametrize("family", ["internvl", "aya_vision", "cohere2_vision"])
def test_scores_are_joined_as_the_shuffle_joins_patches(family: str) -> None:
    model, batch = pair(family)[0], three_rows(family)
    assert len(batch["pixel_values"]) > 3  # some are cut into tiles
    received = maps(family, batch, "vision_tower")
    expected = received[:, shuffled(family, model)].mean(-1).flatten()
    compare(probe(model, batch, Saliency())[Saliency()], expected)


def test_ovis2_scores_are_joined_by_its_stride() -> None:
    model, batch = pair("ovis2")[0], three_rows("ovis2")
    received = maps("ovis2", batch, "vision_tower").view(-1, 2, 2, 2, 2)
    compare(probe(model, batch, Saliency())[Saliency()], received.mean((2, 4)).flatten())


def test_janus_tokens_are_patches() -> None:
    model, batch = pair("janus")[0], three_rows("janus")
    compare(probe(model, batch, Saliency())[Saliency()], maps("janus", batch, "vision_model").flatten())


@pytest.mark.parametrize(("family", "block"), [("llava_next_video", 2), ("vipllava", 2)])
def test_relatives_of_llava_are_scored_by_the_class_token(family: str, block: int) -> None:
    """VipLLaVA's features come from blocks 2, 1 and 0: the deepest one scores."""
    model, batch = pair(family)[0], three_rows(family)
    assert adapter_for(model).tower.feature_block == block
    compare(probe(model, batch, Saliency())[Saliency()], torch.cat(llava_scores(family, batch, block)))


@pytest.mark.parametrize("family", ["glm4v", "glm46v", "glm4v_moe"])
def test_glm_scores_are_those_of_its_merger(family: str) -> None:
    model, batch = pair(family)[0], three_rows(family)
    expected = qwen_scores(model, batch, 3)
    for got, right in zip(probe(model, batch, Saliency())[Saliency()], expected, strict=True):
        compare([got], right)


@pytest.mark.parametrize("family", ["qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"])
@torch.no_grad()
def test_thinkers_are_scored_in_the_last_block_that_attends_to_whole_pictures(family: str) -> None:
    model, batch = pair(family)[0], three_rows(family)
    for got, right in zip(probe(model, batch, Saliency())[Saliency()], qwen_scores(model, batch, 3), strict=True):
        compare([got], right)


@pytest.mark.parametrize(("family", "tower"), [("mistral3", "vision_tower"), ("lighton_ocr", "vision_encoder")])
@torch.no_grad()
def test_packed_pictures_are_scored_one_by_one(family: str, tower: str) -> None:
    """What patches of a picture get from its own, averaged over the four that make a token."""
    model, batch = pair(family)[0], three_rows(family)
    eager: Any = getattr(build(family, attn_implementation="eager")[0].model, tower)
    seen = eager(batch["pixel_values"], image_sizes=batch["image_sizes"], output_attentions=True).attentions[-1]
    received, expected = seen[0].mean(0).sum(0), []
    for high, wide in (batch["image_sizes"] // 28).tolist():
        mine, received = received[: 4 * high * wide], received[4 * high * wide :]
        expected.append(mine.view(high, 2, wide, 2).mean((1, 3)).flatten())
    assert len(received) == 0
    compare(probe(model, batch, Saliency())[Saliency()], torch.cat(expected))


@torch.no_grad()
def test_frames_of_llava_next_video_are_pooled() -> None:
    """Two videos of three frames each, 2 x 2 tokens a frame."""
    model, processor = pair("llava_next_video")
    frames = torch.cat([inputs(processor, ["x"], [[image(56, 56, seed=n)]])["pixel_values"][0, :1] for n in range(6)])
    ids = processor.tokenizer(["Look: " + "<video>" * 12 + " what?"] * 2, return_tensors="pt")
    batch = {**ids, "pixel_values_videos": frames.view(2, 3, *frames.shape[1:])}
    tower = build("llava_next_video", attn_implementation="eager")[0].model.vision_tower
    received = tower(frames, output_attentions=True).attentions[2].mean(1)[:, 0, 1:].view(6, 2, 2, 2, 2)
    found = probe(model, batch, Saliency())[Saliency()]
    assert [len(part) for part in found] == [12, 12]
    compare(found, received.mean((2, 4)).flatten())
