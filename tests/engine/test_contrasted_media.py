"""Contrasts on images and videos: every one, in every family that sees both, against two untouched sequences."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.engine.compare import DETAILS
from tests.engine.contrasted import Combine, Partly, check_answers, contrasted, expect, forgetful, guided
from tests.engine.masked import dropped_keys
from tests.engine.media import APART, FRAMES, PADDED, POOLED, Part, clip, media
from tests.families import image
from vtokens.adapters import adapter_for
from vtokens.strategies.contrast.avisc import blind_tokens

pytestmark = pytest.mark.usefixtures("no_grad")
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 2, "eos_token_id": 10**6}
WEIGHTED = "alpha=1.0, beta=0.02"
TWO = contrasted(1.0, 0.02)
CONTRASTS: dict[str, tuple[str, Combine]] = {
    "pai": ("pai(gamma=2.0, beta=0.02)", guided(2.0, 0.02)),
    "m3id": ("m3id(forgetting=0.2, beta=0.02)", forgetful(0.2, 0.02)),
    "vcd": (f"vcd({WEIGHTED}, steps=400, seed=3)", TWO),
    "lqcd": (f"lqcd({WEIGHTED})", TWO),
    "contrast": (f"contrast({WEIGHTED}, branch='fastv(keep=0.3, layer=2)')", TWO),
    "damro": (f"damro({WEIGHTED}, k=3)", TWO),
    "zeroed": (f"avisc({WEIGHTED}, gamma=0.6, lam=0.5)", TWO),
    "dropped": (f"avisc({WEIGHTED}, gamma=0.6, lam=0.5, others='drop')", TWO),
}


def asked(family: str, lead: str = "") -> list[list[Part]]:
    """Prompts with a video and images, two videos, none; a call of a GLM takes one kind alone."""
    still: list[Part] = [] if family in APART else [image(100, 60, seed=2), " beside "]
    return [
        [f"{lead}Look: ", clip(2, seed=1), *still, "what?"],
        ["hello"],
        [*still[:1], clip(2, 56, 84, seed=3), lead, clip(2, seed=4), " name one thing"],
    ]


def noised(family: str, prompt: dict[str, Any], steps: int, seed: int) -> dict[str, Any]:
    """The prompt with VCD's noise, by the formula of the paper; every image and every frame of a video has its own."""
    beta = torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64)) * (0.5e-2 - 1e-5) + 1e-5
    left = torch.cumprod(1 - beta, 0)[steps].item()

    def change(pixels: Tensor) -> Tensor:
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
        return left**0.5 * pixels + (1 - left) ** 0.5 * noise

    found = dict(prompt)
    for name, grids in (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")):
        if name not in prompt:
            continue
        if family in PADDED:
            counts = prompt["num_frames_per_video"].tolist() if name.endswith("videos") else [1] * len(prompt[name])
            places = prompt[f"{'video' if name.endswith('videos') else 'image'}_position_ids"]
            found[name] = prompt[name].clone()
            for part, where in zip(found[name].split(counts), places.split(counts), strict=True):
                real = (where >= 0).all(-1)  # its tower takes 0..1
                part[real] = (change(2 * part[real] - 1) + 1) / 2
        elif family in POOLED:
            videos = name.endswith("videos")
            planes = prompt[name].flatten(1, 2) if videos else prompt[name].reshape(-1, *prompt[name].shape[-3:])
            found[name] = torch.stack([change(plane) for plane in planes]).view_as(prompt[name])
        else:
            found[name] = torch.cat([change(part) for part in prompt[name].split(prompt[grids].prod(-1).tolist())])
    return found


def places(family: str, prompt: dict[str, Any]) -> dict[str, Tensor]:
    """bool (1, N): the placeholders of each modality."""
    return adapter_for(model(family, "plain")).placeholders(prompt)


def wordless(family: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """Its text alone."""
    text = ~torch.stack([*places(family, prompt).values()]).any(0)
    ids = prompt["input_ids"][text][None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def seen(family: str, prompt: dict[str, Any], spec: str) -> tuple[Tensor, list[Tensor]]:
    """bool (1, N), the visual tokens of a row; and what each layer does not see under a pruner."""
    target = model(family, "branch")
    with vtokens.attach(target, spec) as handle:
        target(**prompt)
        report = handle.report()
    left = {name: there[0].nonzero()[:, 0] for name, there in places(family, prompt).items()}
    visual = torch.zeros_like(prompt["input_ids"], dtype=torch.bool)
    for part in report.samples[0].pictures:
        own, left[part.picture.modality] = left[part.picture.modality].tensor_split([len(part.picture)])
        visual[0, own[torch.from_numpy(part.picture.view >= 0)]] = True
    return visual, dropped_keys(report, prompt["attention_mask"])


def blind(family: str, prompt: dict[str, Any], zeroed: bool) -> Partly:
    """AvisC's other prompt, from whole attention matrices."""
    visual, dropped = seen(family, prompt, "none")
    maps = model(family, "plain", "eager")(**prompt, output_attentions=True).attentions
    looks = torch.stack([layer[0, :, -1].mean(0)[visual[0]] for layer in maps])[:, None]
    rest = torch.zeros_like(visual)
    rest[visual] = ~blind_tokens(looks, torch.ones_like(looks[0], dtype=torch.bool), 0.6, 0.5)[0]
    return Partly(prompt, blank=rest) if zeroed else Partly(prompt, [rest] * len(dropped))


def other(family: str, name: str, prompt: dict[str, Any], leading: dict[str, Any]) -> Any:
    """The negative prompt of one row, from the definition of each contrast."""
    if name in ("pai", "m3id"):
        return wordless(family, prompt)
    if name == "vcd":
        return noised(family, prompt, 400, 3)
    if name == "lqcd":
        return leading
    if name == "contrast":
        return Partly(prompt, seen(family, prompt, "fastv(keep=0.3, layer=2)")[1])
    if name == "damro":
        visual, dropped = seen(family, prompt, "cls(keep=3)")
        there = torch.stack([*places(family, prompt).values()]).any(0)
        return Partly(prompt, [part | (there & ~visual) for part in dropped])
    return blind(family, prompt, name == "zeroed")


@pytest.mark.parametrize("name", CONTRASTS)
@pytest.mark.parametrize("family", FRAMES)
def test_images_and_videos(family: str, name: str) -> None:
    """A left-padded batch, row by row as the formula says of two prompts that are fed whole."""
    spec, combine = CONTRASTS[name]
    batch, other_batch = media(family, asked(family)), media(family, asked(family, "Oh! "))
    rows = [media(family, [row]) for row in asked(family)]
    leading = [media(family, [row]) for row in asked(family, "Oh! ")]
    prompts = [None if i == 1 else other(family, name, rows[i], leading[i]) for i in range(3)]
    expected = expect(model(family, "plain"), batch, prompts, combine, **GREEDY)
    with vtokens.attach(model(family, "pruned"), spec) as handle, ExitStack() as stack:
        if name == "lqcd":
            stack.enter_context(handle.negative_prompt(**other_batch))
        got = model(family, "pruned").generate(**batch, **GREEDY, **DETAILS)
    check_answers(got, expected)
