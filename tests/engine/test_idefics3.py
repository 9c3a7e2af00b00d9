"""Idefics3 and SmolVLM: tiles, the shuffle that joins patches, padding beside a picture and instead of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.families import build, image, inputs
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.strategies import Saliency

pytestmark = [pytest.mark.parametrize("family", ["idefics3", "smolvlm"]), pytest.mark.usefixtures("no_grad")]


def scores(target: Any, batch: dict[str, Any]) -> Tensor:
    """(tokens,): the saliency of all tokens, as strategies read it."""
    with vtokens.attach(target, "cls(keep=0.5)"):
        output = target.model.get_image_features(
            batch["pixel_values"], batch.get("pixel_attention_mask"), return_dict=True
        )
    return output["_vtokens_tower_run"].run.saliency(Saliency())


def ragged() -> tuple[list[str], list[list[Any]]]:
    """Samples of several tiles, of two images, and of none."""
    prompts = ["Look: <image> what is this?", "Compare <image> with <image>", "hello"]
    return prompts, [[image(100, 60, seed=0)], [image(84, 84, seed=1), image(150, 40, seed=2)], []]


def test_scores_are_those_of_an_eager_tower_in_the_order_of_tokens(family: str) -> None:
    """Token i of the connector is made of four patches, found here by asking it for their numbers."""
    target, batch = model(family, "pruned"), dict(inputs(family, *ragged()))
    adapter = adapter_for(target)
    real = (batch["pixel_values"] != 0).flatten(2).any(-1)
    tiles, side = batch["pixel_values"][real], 6
    tower = build(family, attn_implementation="eager")[0].model.vision_model
    maps = tower(tiles, output_attentions=True).attentions[-1].mean(1).sum(1)
    numbers = torch.arange(side * side).float().view(1, -1, 1).repeat(1, 1, 32)
    joined = target.model.connector.pixel_shuffle(numbers, 2).view(-1, 4, 32)[..., 0].long()
    expected = maps[:, joined].mean(-1).flatten()
    close_pass(scores(target, batch), expected)
    assert len(adapter.pictures("image", batch)) == len(tiles)


def test_neither_padding_nor_other_pictures_move_scores(family: str) -> None:
    """Pictures of several sizes in one batch are padded, and patches of padding neither vote nor get votes."""
    target, processor = build(family)
    pictures = [[image(84, 42, seed=0)], [image(42, 84, seed=1)]]
    how = {"images_kwargs": {"do_image_splitting": False}, "padding": True, "padding_side": "left"}
    batch = dict(processor(images=pictures, text=["<image> a", "<image> b"], return_tensors="pt", **how))
    mask = batch["pixel_attention_mask"].bool()
    if mask.all():  # the processor squeezes them into squares
        mask = mask.clone()
        mask[0, :, 42:] = False
        mask[1, :, :, 42:] = False
        batch["pixel_attention_mask"] = mask
    before = scores(target, batch)
    hidden = ~mask[:, :, None].expand_as(batch["pixel_values"])
    noisy = {
        **batch,
        "pixel_values": torch.where(hidden, torch.randn_like(batch["pixel_values"]), batch["pixel_values"]),
    }
    close_pass(scores(target, noisy), before)
    other = {**batch, "pixel_values": batch["pixel_values"].clone()}
    other["pixel_values"][1] = torch.randn_like(other["pixel_values"][1])
    close_pass(scores(target, other)[:9], before[:9])
    assert (scores(target, other)[9:] - before[9:]).abs().max() > 1e-3
    assert before.view(2, 3, 3)[0, 2].abs().max() == 0  # a row of tokens that is padding alone
    for attention in ("eager", "sdpa"):
        close_pass(scores(build(family, attn_implementation=attention)[0], batch), before)


@pytest.mark.parametrize("spec", ["dymu(thresholds=(0.3, 0.3, 0.3))", "cls(keep=0.4)", "vcd(steps=500, seed=3)", "vhr"])
def test_rows_of_a_batch_answer_as_alone(family: str, spec: str) -> None:
    """Merging stays inside a picture, and noise leaves alone what only evens out the rows of a batch."""
    target, (prompts, groups) = model(family, "pruned"), ragged()
    options = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with vtokens.attach(target, spec):
        together = target.generate(**inputs(family, prompts, groups), **options)
        for row, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
            alone = target.generate(**inputs(family, [prompt], [group]), **options)
            first = spec.startswith("vcd")  # whose noise is drawn for each picture in turn
            if not first or row == 0:
                close_pass(together.logits[0][row], alone.logits[0][0], passes=2)


def test_noise_leaves_padding_pictures_alone(family: str) -> None:
    """A picture of zeros is none to the model; with noise it would become one."""
    adapter, batch = adapter_for(model(family, "pruned")), dict(inputs(family, *ragged()))
    given = {name: batch[name] for name in ("pixel_values", "pixel_attention_mask")}
    changed = adapter.change_pixels("image", given, lambda pixels: pixels + 1)["pixel_values"]
    real = (batch["pixel_values"] != 0).flatten(2).any(-1)
    assert not real.all()
    assert torch.equal((changed != 0).flatten(2).any(-1), real)
    assert torch.equal(changed[real], batch["pixel_values"][real] + 1)
