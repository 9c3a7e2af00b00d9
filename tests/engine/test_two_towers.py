"""Video-LLaVA: a tower of images and one of frames, which keep their class tokens, in one prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.engine.compare import GREEDY, both, check_tokens
from tests.engine.state import snapshot
from tests.engine.test_pruned_equals_masked import check_forward
from tests.families import build, image, inputs
from tests.limits import close_pass
from tests.strategies.helpers import pair, probe
from vtokens.strategies import Saliency

pytestmark = pytest.mark.usefixtures("no_grad")
FAMILY = "video_llava"
FRAME = 17  # 4 x 4 patches behind a class token
SPECS = ["cls(keep=5)", "fastv(keep=0.4, layer=2)", "cls(keep=0.6)+fastv(keep=0.5, layer=1)"]


def mixed(side: str = "left", seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)) -> dict[str, Any]:
    """A prompt with two videos of two frames and an image between them, one with an image, one with a video."""
    processor = pair(FAMILY)[1]
    pixels = [inputs(processor, ["x"], [[image(100, 60, seed=seed)]])["pixel_values"][0] for seed in seeds]
    video, still = "<video>" * 2 * FRAME, "<image>" * 16
    prompts = [f"Look: {video} then {still} and {video} what?", f"{still} is it red?", f"How many? {video}"]
    # Two images come first in `pixels`, then the frames.
    frames = torch.stack([*pixels[2:6], *pixels[5:7]]).unflatten(0, (3, 2))
    ids = processor.tokenizer(prompts, return_tensors="pt", padding=True, padding_side=side)
    return {**ids, "pixel_values": torch.stack(pixels[:2]), "pixel_values_videos": frames}


def found(batch: dict[str, Any], blocks: tuple[int, ...] | None = None) -> list[Tensor]:
    """Scores of the pictures of a batch, images first."""
    wanted = Saliency(blocks)
    return probe(model(FAMILY, "pruned"), batch, wanted)[wanted]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("spec", SPECS)
def test_pruned_equals_masked(spec: str, side: str) -> None:
    batch = mixed(side)
    report = check_forward(batch, model(FAMILY, "pruned"), model(FAMILY, "plain", "eager"), spec)
    kinds = [[part.picture.modality for part in sample.pictures] for sample in report.samples]
    assert kinds == [["image", "video", "video"], ["image"], ["video"]]
    clip = report.samples[2].pictures[0].picture
    assert clip.grids == ((2, 4, 4),)
    assert (len(clip), clip.tokens) == (2 * FRAME, 32)
    assert [*map(int, (clip.view < 0).nonzero()[0])] == [0, FRAME]
    with vtokens.attach(model(FAMILY, "pruned"), "cls(keep=1.0)"):
        same = model(FAMILY, "pruned")(**batch).logits
    assert torch.equal(same, model(FAMILY, "plain")(**batch).logits)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_generated_like_masked(options: dict[str, Any]) -> None:
    got, expected, report = both(
        FAMILY, mixed(), SPECS[-1], **{**GREEDY, **options, "max_new_tokens": 3, "min_new_tokens": 3}
    )
    assert report.samples[0].visual_tokens[-1] < report.samples[0].visual_tokens[0]
    check_tokens(got, expected, 3)


def test_each_tower_scores_its_own() -> None:
    """Both are watched, block 2 in front of the features of each, by its class token."""
    batch = mixed()
    eager = build(FAMILY, attn_implementation="eager")[0].model
    stills = eager.image_tower(batch["pixel_values"], output_attentions=True).attentions[2].mean(1)[:, 0, 1:]
    frames = batch["pixel_values_videos"].flatten(0, 1)
    moving = eager.video_tower(frames, output_attentions=True).attentions[2].mean(1)[:, 0, 1:].reshape(3, 32)
    parts = found(batch)
    assert [len(part) for part in parts] == [16, 16, 32, 32, 32]  # no feature stands where class tokens do
    for part, right in zip(parts, [*stills, *moving], strict=True):
        assert right.std() > 1e-3 * right.mean()
        close_pass(part / part.sum(), right / right.sum())


@pytest.mark.parametrize("blocks", [None, (0, 3)])
def test_other_pictures_move_no_scores(blocks: tuple[int, ...] | None) -> None:
    before = found(mixed(), blocks)
    still = found(mixed(seeds=(9, 1, 2, 3, 4, 5, 6)), blocks)
    clip = found(mixed(seeds=(0, 1, 2, 3, 4, 5, 9)), blocks)
    assert [torch.equal(a, b) for a, b in zip(before, still, strict=True)] == [False, True, True, True, True]
    assert [torch.equal(a, b) for a, b in zip(before, clip, strict=True)] == [True, True, True, True, False]


def test_pixels_of_images_go_by_their_older_name_too() -> None:
    """As its own processor hands them on."""
    batch = mixed()
    older = {("pixel_values_images" if name == "pixel_values" else name): part for name, part in batch.items()}
    target = model(FAMILY, "pruned")
    for spec in ("cls(keep=5)", "vcd"):
        with vtokens.attach(target, spec):
            torch.manual_seed(0)
            new = target.generate(**batch, **GREEDY)
            torch.manual_seed(0)
            assert torch.equal(target.generate(**older, **GREEDY), new)


def test_merging_is_for_images() -> None:
    """Thresholds are those of one tower. Nothing is left on either when strategies go."""
    target = build(FAMILY)[0]
    target(**mixed())  # transformers puts hooks of its own on for good
    before = snapshot(target)
    with vtokens.attach(target, "dymu(thresholds=(0.3, 0.3, 0.3))") as handle:
        with pytest.raises(ValueError, match="frames go through a tower of their own"):
            target(**mixed())
        target(**inputs(FAMILY, ["a <image>"], [[image(60, 60, seed=0)]]))
        assert handle.report().samples[0].visual_tokens[0] < 16
    with vtokens.attach(target, "cls(keep=5)"):
        target(**mixed())
    assert snapshot(target) == before
