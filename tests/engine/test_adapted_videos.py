"""Videos of families that need an adapter only: pooled frames, and frames that stand apart under image tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS
from tests.engine.contrasted import check_answers, contrasted, expect
from tests.engine.test_pruned_equals_masked import check_forward
from tests.families import build, image, inputs
from tests.strategies.helpers import pair

pytestmark = pytest.mark.usefixtures("no_grad")
SPECS = ["cls(keep=5)", "fastv(keep=0.4, layer=2)", "cls(keep=0.6)+fastv(keep=0.5, layer=1)"]
GLMS = ["glm4v", "glm46v", "glm4v_moe"]


def pooled_frames() -> dict[str, Any]:
    """Two videos of three frames, 2 x 2 tokens a frame."""
    processor = pair("llava_next_video")[1]
    frames = torch.cat([inputs(processor, ["x"], [[image(56, 56, seed=n)]])["pixel_values"][0, :1] for n in range(6)])
    ids = processor.tokenizer(["Look: " + "<video>" * 12 + " what?"] * 2, return_tensors="pt")
    return {**ids, "pixel_values_videos": frames.view(2, 3, *frames.shape[1:])}


def frames_apart(family: str) -> dict[str, Any]:
    """One video of three frames, each marked as an image and followed by its time."""
    processor = pair(family)[1]
    frames = [inputs(processor, ["x"], [[image(84, 56, seed=n)]]) for n in range(3)]
    grid = frames[0]["image_grid_thw"].clone()
    tokens = int(grid.prod()) // 4
    grid[0, 0] = 3
    frame = "<|begin_of_image|>" + "<|image|>" * tokens + "<|end_of_image|>"
    text = "Look: <|begin_of_video|>" + "".join(f"{frame}{n}" for n in range(3)) + "<|end_of_video|> what?"
    ids = processor.tokenizer([text], return_tensors="pt")
    kinds = 2 * (ids["input_ids"] == processor.image_token_id).int()
    pixels = torch.cat([one["pixel_values"] for one in frames])
    return {
        "input_ids": ids["input_ids"], "attention_mask": ids["attention_mask"], "mm_token_type_ids": kinds,
        "pixel_values_videos": pixels, "video_grid_thw": grid,
    }  # fmt: skip


def check(family: str, batch: dict[str, Any], spec: str) -> vtokens.Report:
    """Pruned equals masked in the prompt and in what is generated; nothing dropped changes no bit."""
    pruned, plain = model(family, "pruned"), model(family, "plain", "eager")
    report = check_forward(batch, pruned, plain, spec)
    with vtokens.attach(pruned, "cls(keep=1.0)"):
        same = pruned(**batch).logits
    assert torch.equal(same, model(family, "plain")(**batch).logits)
    return report


@pytest.mark.parametrize("spec", SPECS)
def test_pooled_frames(spec: str) -> None:
    report = check("llava_next_video", pooled_frames(), spec)
    for sample in report.samples:
        (part,) = sample.pictures
        assert part.picture.modality == "video"
        assert part.picture.grids == ((3, 2, 2),)


@pytest.mark.parametrize("family", GLMS)
@pytest.mark.parametrize("spec", SPECS)
def test_frames_under_image_tokens(family: str, spec: str) -> None:
    report = check(family, frames_apart(family), spec)
    (part,) = report.samples[0].pictures
    assert part.picture.modality == "video"
    assert part.picture.grids[0][0] == 3


def test_another_prompt_about_a_video_counts_its_seconds() -> None:
    """Qwen2.5-VL's frames stand as far apart as the processor says, in the negative prompt of `lqcd` too."""
    family = "qwen2_5_vl"
    target, plain, config = model(family, "pruned"), model(family, "plain"), model(family, "plain").config
    frame = inputs(family, ["x"], [[image(84, 56, seed=0)]])
    grid = frame["image_grid_thw"].clone()
    grid[0, 0] = 3
    video = [
        config.vision_start_token_id,
        *[config.video_token_id] * (int(grid.prod()) // 4),
        config.vision_end_token_id,
    ]

    def prompt(*words: int) -> dict[str, Any]:
        ids = torch.tensor([[*words, *video, 65, 66]])
        return {
            "input_ids": ids, "attention_mask": torch.ones_like(ids), "video_grid_thw": grid,
            "mm_token_type_ids": 2 * (ids == config.video_token_id).int(),
            "pixel_values_videos": torch.cat([frame["pixel_values"]] * 3), "second_per_grid_ts": torch.tensor([4.0]),
        }  # fmt: skip

    options = {"do_sample": False, "max_new_tokens": 3, "eos_token_id": 10**6}
    with vtokens.attach(target, "lqcd(alpha=1.0, beta=0.02)") as handle, handle.negative_prompt(**prompt(70, 71)):
        got = target.generate(**prompt(72), **options, **DETAILS)
    check_answers(got, expect(plain, prompt(72), [prompt(70, 71)], contrasted(1.0, 0.02), **options))


def test_merging_before_frames_are_pooled_is_refused() -> None:
    target = build("llava_next_video")[0]
    with vtokens.attach(target, "dymu(thresholds=(0.3, 0.3, 0.3))"):
        with pytest.raises(ValueError, match="frames of a LLaVA-NeXT-Video are pooled"):
            target(**pooled_frames())
        target(**inputs("llava_next_video", ["a <image>"], [[image(60, 60, seed=0)]]))
