"""Tokens merged inside the vision tower: what the model's own feature call returns while DyMU is attached."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.merged_tower import merge_round, merged_states
from tests.families import FAMILIES, build, image, inputs
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.engine.state import merging
from vtokens.engine.state.tower_run import run_in

TOWERS = ("llava", "llava_next", "llava_onevision")
SOME = (0.6, 0.55, 0.7)
SIZES = ((100, 60), (60, 130), (84, 84))


def feature_inputs(family: str, sizes: tuple[tuple[int, int], ...] = SIZES) -> dict[str, Any]:
    """Arguments of `get_image_features` for one picture a sample."""
    prompts = ["Is there a cat?"] * len(sizes)
    batch = inputs(family, prompts, [[image(*size, seed=i)] for i, size in enumerate(sizes)])
    names = ("pixel_values", "image_sizes", "image_grid_thw", "batch_num_images")
    return {name: batch[name] for name in names if name in batch}


def squares(arguments: dict[str, Any], adapter: Any) -> Tensor:
    """The pixels of what goes through a LLaVA tower, (squares, 3, side, side)."""
    pixels = arguments["pixel_values"]
    if pixels.dim() == 4:
        return pixels
    return torch.cat([part[:crops] for part, crops in zip(pixels, adapter._crops(arguments)[0], strict=True)])


def features(model: Any, arguments: dict[str, Any], **options: Any) -> Any:
    """What the feature call returns under DyMU."""
    with torch.no_grad(), vtokens.attach(model, "dymu", **options):
        return model.model.get_image_features(**arguments, return_dict=True)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", TOWERS)
@pytest.mark.parametrize("order", ["raster", "release"])
def test_features_equal_those_of_equal_copies(family: str, attention: str, order: str) -> None:
    """Against a tower that computes every patch at full length, at every position."""
    model = build(family, attn_implementation=attention)[0]
    arguments = feature_inputs(family)
    with vtokens.attach(model, "dymu", thresholds=SOME, order=order) as handle:
        output = model.model.get_image_features(**arguments, return_dict=True)
        adapter = handle._adapter
    pixels, last = squares(arguments, adapter), adapter.tower.feature_block
    states, groups = merged_states(adapter.tower.module, pixels, SOME, last, order == "release")
    assert groups != merged_states(adapter.tower.module, pixels, SOME, last, order != "release")[1]
    merged = [len(group) for group in groups]
    assert all(3 <= count < len(member) for count, member in zip(merged, states, strict=True))
    seen = run_in("image", output, True, adapter)
    assert seen is not None
    assert seen.merging is not None
    assert seen.merging.valid.sum(1).tolist() == merged
    plain = model.model.multi_modal_projector(states[:, int(adapter.tower.has_cls) :])
    expected = pack(model.model, family, plain, arguments, adapter)
    for got, want in zip(output.pooler_output, expected, strict=True):
        close_pass(got, want)


def pack(model: Any, family: str, planes: Tensor, arguments: dict[str, Any], adapter: Any) -> list[Tensor]:
    """Features as the model's own code arranges them."""
    if family == "llava":
        return list(planes)
    crops, sizes = adapter._crops(arguments)
    return adapter._pack(list(planes.split(crops)), sizes, model.image_newline, arguments)


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_qwen_merges_finished_features(family: str) -> None:
    """Behind the 2x2 merger: two rounds by the cosine of the features themselves, each picture by itself."""
    model = build(family)[0]
    arguments = feature_inputs(family)
    plain = model.model.get_image_features(**arguments, return_dict=True).pooler_output
    output = features(model, arguments, thresholds=(0.5, 0.4))
    lost = 0
    for before, after in zip(plain, output.pooler_output, strict=True):
        groups, values = {i: [i] for i in range(len(before))}, before.clone()
        for threshold in (0.5, 0.4):
            metric = {row: values[members[0]] for row, members in groups.items()}
            groups = merge_round(groups, metric, values, threshold, protect=0)
        lost += len(before) - len(groups)
        close_pass(after, values)
    assert lost > 3


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_is_merged_as_it_would_be_alone(family: str) -> None:
    """The same groups in a batch and by itself, and the same features."""
    model = build(family)[0]
    together = features(model, feature_inputs(family), thresholds=SOME)
    for number, size in enumerate(SIZES):
        prompt = inputs(family, ["Is there a cat?"], [[image(*size, seed=number)]])
        alone = {name: prompt[name] for name in feature_inputs(family) if name in prompt}
        one = features(model, alone, thresholds=SOME)
        close_pass(one.pooler_output[0], together.pooler_output[number])


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_threshold_of_one_leaves_every_bit(family: str) -> None:
    """Nothing to merge: the tower is not even tapped."""
    model = build(family)[0]
    arguments = feature_inputs(family)
    plain = model.model.get_image_features(**arguments, return_dict=True).pooler_output
    for options in ({"thresholds": (1.0, 1.0, 1.0)}, {"thresholds": (1.5,)}, {"thresholds": ()}):
        output = features(model, arguments, **options)
        assert all(torch.equal(a, b) for a, b in zip(plain, output.pooler_output, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_detaching_leaves_no_trace(family: str) -> None:
    """Features, hooks and instance attributes are those of before; a failed run leaves nothing either."""
    model = build(family)[0]
    arguments = feature_inputs(family)
    plain = model.model.get_image_features(**arguments, return_dict=True).pooler_output

    def hooks() -> list[int]:
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]

    before = hooks()
    with vtokens.attach(model, "dymu", thresholds=SOME):
        with pytest.raises(Exception, match=r".+"):
            model.model.get_image_features(**{**arguments, "pixel_values": arguments["pixel_values"][..., :-1]})
        first = model.model.get_image_features(**arguments, return_dict=True).pooler_output
    assert hooks() == before
    after = model.model.get_image_features(**arguments, return_dict=True).pooler_output
    assert all(torch.equal(a, b) for a, b in zip(plain, after, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain, first, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("family", TOWERS)
def test_saliency_of_merged_tokens_is_shared_out(family: str) -> None:
    """Patches get what they would as equal copies: the scores of the tower that computes every patch."""
    model = build(family)[0]
    arguments = feature_inputs(family, SIZES[:1])
    with vtokens.attach(model, [{"name": "dymu", "thresholds": SOME}, {"name": "cls", "keep": 0.5}]) as handle:
        output = model.model.get_image_features(**arguments, return_dict=True)
        adapter = handle._adapter
    seen, last = run_in("image", output, True, adapter), adapter.tower.feature_block
    assert seen is not None
    pixels = squares(arguments, adapter)
    states, _ = merged_states(adapter.tower.module, pixels, SOME, last - 1)
    block = adapter.tower.blocks[last]
    normed, attention = block.layer_norm1(states), block.self_attn
    q, k = (
        f(normed).view(len(pixels), states.shape[1], attention.num_heads, -1).transpose(1, 2)
        for f in (attention.q_proj, attention.k_proj)
    )
    maps = (q @ k.transpose(2, 3) * attention.scale).softmax(-1).mean(1)
    expected = maps[:, 0, 1:] if adapter.tower.has_cls else maps.sum(1)
    close_pass(torch.cat([*seen.scores[last, "cls", "mean"]]), expected.flatten())


@torch.no_grad()
def test_videos_that_are_pooled_share_where_a_whole_cell_was_merged() -> None:
    """OneVision averages 2x2 patches of a frame: equal copies exactly where all four went into one token."""
    model = build("llava_onevision")[0]
    videos = torch.randn(1, 3, 3, 56, 56)
    videos[:, 1] = 0.3  # a frame without content merges well
    with vtokens.attach(model, "dymu", thresholds=(0.5, 0.5, 0.5)):
        output = model.model.get_video_features(videos, return_dict=True)
    seen = run_in("video", output, True, adapter_for(model))
    assert seen is not None
    assert seen.merging is not None
    copies = seen.copies()
    member = seen.merging.member.view(3, 2, 2, 2, 2).transpose(2, 3).reshape(3, 4, 4)  # frames, cells, patches
    pooled = output.pooler_output[0]
    assert len(copies) == len(pooled) == 3 * 4 + 1
    whole = [(f, c) for f in range(3) for c in range(4) if member[f, c].unique().numel() == 1]
    assert whole
    for f in range(3):
        for c in range(4):
            same = [p for p in range(13) if copies[p] == copies[4 * f + c]]
            expected = [
                4 * f + d for g, d in whole if (f, c) in whole and g == f and member[f, d, 0] == member[f, c, 0]
            ]
            assert same == (expected or [4 * f + c])
            assert all(torch.allclose(pooled[p], pooled[same[0]], atol=1e-5) for p in same)
    assert copies[12] == 0


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_with_extreme_activations(family: str, dtype: torch.dtype) -> None:
    """A residual stream near the end of half precision's range: features stay finite."""
    model = copy.deepcopy(build(family)[0])
    tower = vtokens.adapters.adapter_for(model).tower.module
    first = next(p for p in tower.parameters() if p.dim() > 1)
    first.data.mul_(2e3)
    model.to(dtype)
    arguments = {k: v.to(dtype) if v.is_floating_point() else v for k, v in feature_inputs(family).items()}
    plain = model.model.get_image_features(**arguments, return_dict=True).pooler_output
    assert all(part.isfinite().all() for part in plain)
    output = features(model, arguments, thresholds=SOME)
    assert all(part.isfinite().all() for part in output.pooler_output)


@torch.no_grad()
def test_a_blank_picture_becomes_few_tokens() -> None:
    """Every round halves what is alike, whatever the threshold; the class token stays by itself."""
    model = build("llava")[0]
    output = features(model, {"pixel_values": torch.zeros(1, 3, 56, 56)}, thresholds=(-1.0, -1.0, -1.0))
    merging = run_in("image", output, True, adapter_for(model)).merging
    assert merging.size.sum().item() == 17
    assert merging.size[0, 0].item() == 1
    assert merging.valid.sum().item() == 1 + 16 // 8


def test_what_cannot_work_is_refused() -> None:
    """Features of several blocks, another block than the thresholds are for, and a tower that runs its blocks twice."""
    several = build("llava", vision_feature_layer=[-2, -1])[0]
    with pytest.raises(ValueError, match=r"vision_feature_layer=\[-2, -1\] joins features of several tower blocks"):
        vtokens.attach(several, "dymu", thresholds=SOME)
    model = build("llava")[0]
    with vtokens.attach(model, "dymu", thresholds=SOME):
        with pytest.raises(ValueError, match="vision_feature_layer=-1 is not the layer that tokens are merged up to"):
            model.model.get_image_features(**feature_inputs("llava"), vision_feature_layer=-1)
        model.train()
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
        with pytest.raises(ValueError, match="gradient checkpointing runs the tower's blocks a second time"):
            model.model.get_image_features(**feature_inputs("llava"))
    with pytest.raises(ValueError, match="4 thresholds for the 3 tower blocks"):
        vtokens.attach(build("llava")[0], "dymu", thresholds=(0.5,) * 4)


@torch.no_grad()
@pytest.mark.parametrize("stride", [2, 3, 9])
@pytest.mark.parametrize("family", TOWERS)
def test_rows_merged_away_may_stay_for_a_while(family: str, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator, where dropping them makes the host wait: nobody attends to them, features are the same."""
    model = build(family)[0]
    arguments = feature_inputs(family)
    packed = features(model, arguments, thresholds=SOME)
    monkeypatch.setitem(merging._STRIDE, "cpu", stride)
    loose = features(model, arguments, thresholds=SOME)
    for a, b in zip(packed.pooler_output, loose.pooler_output, strict=True):
        close_pass(a, b)
