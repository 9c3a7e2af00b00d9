"""Contrastive strategies give what two untouched sequences and the formula give, in every family, however decoded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS, PROMPTS
from tests.engine.contrasted import (
    Combine,
    check_answers,
    contrasted,
    expect,
    forgetful,
    guided,
    ruled_out,
    without_pictures,
)
from tests.families import FAMILIES, image, inputs
from tests.limits import close_pass

pytestmark = pytest.mark.usefixtures("no_grad")
BOTH_WAYS = (*FAMILIES, "gemma3", "paligemma", "gemma4")  # whose images, or whole prompts, see themselves both ways
GROUPS = [[image(100, 60, seed=0)], [image(84, 112, seed=1), image(60, 60, seed=2)], []]
# No token ends an answer, so that logits are looked at as they are.
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5, "eos_token_id": 10**6}
TEXT_ONLY = {
    "pai": ("pai(gamma=2.0, beta=0.02)", guided(2.0, 0.02)),
    "m3id": ("m3id(forgetting=0.2, beta=0.02)", forgetful(0.2, 0.02)),
}
MODES: dict[str, dict[str, Any]] = {
    "greedy": GREEDY,
    "beams": {**GREEDY, "num_beams": 3},
    "sample": {**GREEDY, "do_sample": True, "top_k": 0, "temperature": 1.3},
}


def rows(family: str) -> list[dict[str, Any]]:
    """Three prompts, each alone."""
    return [dict(inputs(family, [text], [group])) for text, group in zip(PROMPTS, GROUPS, strict=True)]


def noised(family: str, prompt: dict[str, Any], steps: int = 500, seed: int = 0) -> dict[str, Any]:
    """The same prompt with VCD's noise, made from the formula of the paper, every picture on its own."""
    beta = torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64)) * (0.5e-2 - 1e-5) + 1e-5
    left = torch.cumprod(1 - beta, 0)[steps].item()

    def change(pixels: Any) -> Any:
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
        return left**0.5 * pixels + (1 - left) ** 0.5 * noise

    pixels = prompt["pixel_values"]
    if "image_grid_thw" in prompt:
        parts = pixels.split(prompt["image_grid_thw"].prod(-1).tolist())
        return {**prompt, "pixel_values": torch.cat([change(part) for part in parts])}
    if family in ("mistral3", "lighton_ocr"):  # pictures of a call are padded to the largest
        noisy = pixels.clone()
        for plane, (high, wide) in zip(noisy, prompt["image_sizes"].tolist(), strict=True):
            plane[:, :high, :wide] = change(plane[:, :high, :wide])
        return {**prompt, "pixel_values": noisy}
    if "image_grids" in prompt:  # squares of rows of patches: the whole of a picture, and one or two crops of it
        parts = pixels.split([2 + (columns > 3) for *_, columns in prompt["image_grids"].tolist()])
        return {**prompt, "pixel_values": torch.cat([change(part.flatten(0, 1)).view_as(part) for part in parts])}
    if "target_sizes" in prompt:  # patches side by side
        rows = pixels[0].unflatten(-1, (-1, pixels.shape[2])).permute(2, 0, 1, 3)
        parts = [change(part) for part in rows.split(prompt["target_sizes"].prod(-1).tolist())]
        return {**prompt, "pixel_values": torch.cat(parts).permute(1, 2, 0, 3).flatten(-2)[None]}
    if "spatial_shapes" in prompt:  # rows of patches, padded too
        noisy = pixels.clone()
        for plane, (high, wide) in zip(noisy, prompt["spatial_shapes"].tolist(), strict=True):
            plane[: high * wide] = change(plane[: high * wide])
        return {**prompt, "pixel_values": noisy}
    if family == "gemma4":  # pictures are rows of patches, padded too, whose values its tower maps from 0..1 to -1..1
        noisy = pixels.clone()
        for plane, places in zip(noisy, prompt["image_position_ids"], strict=True):
            real = int((places[:, 0] >= 0).sum())
            plane[:real] = (change(2 * plane[:real] - 1) + 1) / 2
        return {**prompt, "pixel_values": noisy}
    flat = pixels.reshape(-1, *pixels.shape[-3:])
    return {**prompt, "pixel_values": torch.stack([change(plane) for plane in flat]).view_as(pixels)}


def run(family: str, spec: Any, batch: dict[str, Any], **options: Any) -> Any:
    torch.manual_seed(0)
    with vtokens.attach(model(family, "pruned"), spec):
        return model(family, "pruned").generate(**batch, **options, **DETAILS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TEXT_ONLY)
@pytest.mark.parametrize("family", BOTH_WAYS)
def test_the_text_alone(family: str, name: str, mode: str) -> None:
    """PAI and M3ID in a left-padded batch of one, two and no pictures."""
    plain, batch = model(family, "plain"), dict(inputs(family, PROMPTS, GROUPS))
    others = [without_pictures(prompt, plain) for prompt in rows(family)[:2]]
    spec, combine = TEXT_ONLY[name]
    got = run(family, spec, batch, **MODES[mode])
    torch.manual_seed(0)
    check_answers(got, expect(plain, batch, [*others, None], combine, **MODES[mode]), mode == "beams")


@pytest.mark.parametrize("family", ["llava", "llava_next", "llava_onevision"])
@pytest.mark.parametrize("spec", ["pai(gamma=2.0, beta=0.02)", "vcd(beta=0.02)"])
def test_a_prompt_that_ends_with_its_picture(family: str, spec: str) -> None:
    """The first token is contrasted with what follows the text, or the noised picture."""
    plain, prompt = model(family, "plain"), dict(inputs(family, ["Now: <image>"], GROUPS[:1]))
    assert prompt["input_ids"][0, -1] == plain.config.image_token_id
    if spec.startswith("pai"):
        other, combine = without_pictures(prompt, plain), guided(2.0, 0.02)
    else:
        other, combine = noised(family, prompt), contrasted(1.0, 0.02)
    got = run(family, spec, prompt, **GREEDY)
    check_answers(got, expect(plain, prompt, [other], combine, **GREEDY))


@pytest.mark.parametrize("mode", ["greedy", "beams"])
@pytest.mark.parametrize("family", BOTH_WAYS)
def test_a_noised_picture(family: str, mode: str) -> None:
    """VCD; each picture is noised as it would be alone."""
    plain, batch = model(family, "plain"), dict(inputs(family, PROMPTS, GROUPS))
    others = [noised(family, prompt, 400, 3) for prompt in rows(family)[:2]]
    got = run(family, "vcd(alpha=1.5, beta=0.05, steps=400, seed=3)", batch, **MODES[mode])
    check_answers(got, expect(plain, batch, [*others, None], contrasted(1.5, 0.05), **MODES[mode]), mode == "beams")


@pytest.mark.parametrize("family", BOTH_WAYS)
def test_another_prompt(family: str) -> None:
    """Prompt contrast, with a longer and a shorter other prompt, in a padded batch, greedy and with beams."""
    plain = model(family, "plain")
    asked = ["Is there a cat?", "What is <image> beside <image>?"]
    leading = ["Look at the fine cat! Is there a cat?", "<image><image> Is it red?"]
    batch, other = (dict(inputs(family, texts, GROUPS[:2])) for texts in (asked, leading))
    others = [dict(inputs(family, [text], [group])) for text, group in zip(leading, GROUPS, strict=False)]
    for options in (GREEDY, {**GREEDY, "num_beams": 3}):
        expected = expect(plain, batch, list(others), contrasted(1.0, 0.02), **options)
        with vtokens.attach(model(family, "pruned"), "lqcd(beta=0.02)") as handle, handle.negative_prompt(**other):
            got = model(family, "pruned").generate(**batch, **options, **DETAILS)
        check_answers(got, expected, "num_beams" in options)


PRUNED = {
    "random": ("contrast(beta=0.02, branch='random(keep=0.2)')", "random(keep=0.2)"),
    "fastv": ("contrast(beta=0.02, branch='fastv(keep=0.3, layer=2)')", "fastv(keep=0.3, layer=2)"),
    "damro": ("damro(alpha=1, beta=0.02, k=3)", "cls(keep=3)"),
    "noised and pruned": ("vcd(beta=0.02, branch='cls(keep=0.3)+vhr')", "cls(keep=0.3)+vhr"),
}
NEWLINES = ("llava_next", "llava_onevision")
"""Families in which `cls` leaves newline tokens, and `damro` none."""


@pytest.mark.parametrize(
    ("family", "case"),
    [(family, case) for family in BOTH_WAYS for case in PRUNED if case != "damro" or family not in NEWLINES],
)
def test_a_pruned_branch(family: str, case: str) -> None:
    """It says what a second model says that is pruned so, fed the whole at once."""
    spec, branch = PRUNED[case]
    prompt = rows(family)[0]
    got = run(family, spec, prompt, **GREEDY)
    second = noised(family, prompt) if spec.startswith("vcd") else prompt
    check_by_hand(family, got, [("none", prompt), (branch, second)], contrasted(1.0, 0.02))


@pytest.mark.parametrize("pruner", ["cls(keep=0.5)", "fastv(keep=0.5, layer=2)", "todre(keep=0.4)+vhr"])
@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_5_vl"])
def test_behind_a_pruner(family: str, pruner: str) -> None:
    """Both sequences run under it; with the text alone it has nothing to drop."""
    prompt = rows(family)[1]
    for spec, second, combine in (
        (f"{pruner}+vcd(beta=0.02)", noised(family, prompt), contrasted(1.0, 0.02)),
        (f"pai(gamma=2.0, beta=0.02)+{pruner}", without_pictures(prompt, model(family, "plain")), guided(2.0, 0.02)),
    ):
        got = run(family, spec, prompt, **GREEDY)
        check_by_hand(family, got, [(pruner, prompt), (pruner, second)], combine)


def check_by_hand(family: str, got: Any, branches: list[tuple[str, Any]], combine: Combine) -> None:
    """The two branches, each a generation of its own under its own strategies, given the tokens of the answer."""
    steps = []
    for spec, fed in branches:
        length = fed["input_ids"].shape[1]
        forced = Forced(got.sequences[0, branches[0][1]["input_ids"].shape[1] :], length)
        with vtokens.attach(model(family, "branch"), spec):
            steps.append(model(family, "branch").generate(**fed, **GREEDY, **DETAILS, logits_processor=[forced]).logits)
    for place, (real, other) in enumerate(zip(*steps, strict=True)):
        expected, mine = combine(real[0], other[0], place + 1), ruled_out(got.logits[place][0])
        assert torch.equal(mine.isinf(), expected.isinf())
        close_pass(mine.log_softmax(-1), expected.log_softmax(-1), passes=2)


class Forced:
    """A logits processor that lets nothing but the tokens of an answer through."""

    def __init__(self, answer: torch.Tensor, length: int) -> None:
        self._answer, self._length = answer, length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        only = torch.full_like(scores, -torch.inf)
        only[:, self._answer[input_ids.shape[1] - self._length]] = 0
        return only
