"""Parts of a model that others take the place of after attaching, and parts that are copied with strategies on them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import vtokens
from tests.engine.compare import one
from tests.families import build

pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    # What peft asks of a model is deprecated in this transformers.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
FAMILY = "llava"


def shaken(part: Any) -> Any:
    """A copy with other weights."""
    new = copy.deepcopy(part)
    seeded = torch.Generator().manual_seed(0)
    for weight in new.parameters():
        weight += 0.05 * torch.randn(weight.shape, generator=seeded)
    return new


def other_tower(model: Any) -> None:
    model.model.vision_tower = shaken(model.model.vision_tower)


def other_blocks(model: Any) -> None:
    encoder = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower).encoder
    encoder.layers = nn.ModuleList(map(shaken, encoder.layers))


def other_projector(model: Any) -> None:
    model.model.multi_modal_projector = shaken(model.model.multi_modal_projector)


def other_mlps(model: Any) -> None:
    for layer in model.model.language_model.layers:
        layer.mlp = shaken(layer.mlp)


def other_attention(model: Any) -> None:
    for layer in model.model.language_model.layers:
        layer.self_attn = shaken(layer.self_attn)


def saved(*names: str) -> Callable[[Any], Any]:
    """An adapter of peft that trains a copy of some parts."""

    def put(model: Any) -> Any:
        peft = pytest.importorskip("peft")
        torch.manual_seed(0)
        config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=[*names], init_lora_weights=False)
        return peft.get_peft_model(model, config).eval()

    return put


CASES: tuple[tuple[Callable[[Any], Any], str], ...] = (
    *((change, spec) for change in (other_tower, other_blocks) for spec in (
        "cls(keep=0.5)", "downsample(keep=0.25)", "flowcut(keep=0.5)", "dymu(thresholds=(0.5, 0.5))",
        "apet(keep=0.5)", "vcd+hiprune(keep=0.5)",
    )),
    (other_projector, "downsample(keep=0.25)"),
    (other_projector, "dymu(thresholds=(0.5, 0.5))"),
    (other_projector, "vflowopt(keep=0.5)"),
    (other_mlps, "vista"),
    (other_mlps, "corematching"),
    (other_mlps, "transprune(keep=0.5)"),
    (other_mlps, "shortv"),
    (other_attention, "transprune(keep=0.5)"),
    (other_attention, "shortv"),
    (other_attention, "fastv(keep=0.5, layer=2)+pai"),
    (saved("multi_modal_projector"), "dymu(thresholds=(0.5, 0.5))"),
    (saved("lm_head"), "vcd"),
)  # fmt: skip


def logits(model: Any) -> torch.Tensor:
    torch.manual_seed(0)  # of a branch's noise
    return model(**one(FAMILY)).logits


@pytest.mark.parametrize(("change", "spec"), CASES)
def test_what_takes_a_part_s_place_counts(change: Callable[[Any], Any], spec: str) -> None:
    late, early = build(FAMILY)[0], build(FAMILY)[0]
    with vtokens.attach(late, spec):
        before = logits(late)
        late = change(late) or late
        got = logits(late)
    early = change(early) or early
    with vtokens.attach(early, spec):
        assert torch.equal(got, logits(early))
    assert not torch.equal(got, before)
    assert torch.equal(logits(late), logits(early))


@pytest.mark.parametrize("spec", ["cls(keep=0.5)", "flowcut(keep=0.5)", "dymu(thresholds=(0.5, 0.5))"])
def test_features_from_another_block_are_refused_until_attached_anew(spec: str) -> None:
    target = build(FAMILY)[0]
    with vtokens.attach(target, spec):
        logits(target)
        target.config.vision_feature_layer = -1
        with pytest.raises(
            RuntimeError, match=r"came from block 2 of 4 .* from block 3 of 4 now: detach\(\) and attach"
        ):
            logits(target)
    with vtokens.attach(target, spec):
        logits(target)


PARTS: dict[str, Callable[[Any], Any]] = {
    "output layer": lambda model: model.lm_head,
    "decoder": lambda model: model.model.language_model,
    "layer": lambda model: model.model.language_model.layers[2],
    "attention": lambda model: model.model.language_model.layers[1].self_attn,
    "tower": lambda model: model.model.vision_tower,
    "projector": lambda model: model.model.multi_modal_projector,
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "spec", ["fastv(keep=0.5, layer=2)+vcd", "dymu(thresholds=(0.5, 0.5))+vista", "flowcut(keep=0.5)"]
)
def test_a_part_is_copied_without_the_model(part: str, spec: str) -> None:
    """And the original goes on as it was."""
    target, memo = build(FAMILY)[0], dict[int, Any]()
    with vtokens.attach(target, spec):
        expected = logits(target)
        found = PARTS[part](target)
        new = copy.deepcopy(found, memo)
        assert memo[id(found)] is new
        assert id(target) not in memo
        assert id(target.model) not in memo
        assert torch.equal(logits(target), expected)


def test_a_handle_and_its_model_are_copied_as_one() -> None:
    target = build(FAMILY)[0]
    handle = vtokens.attach(target, "cls(keep=0.5)")
    expected = logits(target)
    for holder in ({"handle": handle, "model": target}, {"model": target, "handle": handle}):
        copied = copy.deepcopy(holder)
        assert vtokens.attachment(copied["model"]) is copied["handle"]
        assert torch.equal(logits(copied["model"]), expected)
        copied["handle"].detach()
        assert vtokens.attachment(copied["model"]) is None
        assert handle.attached
    handle.detach()
    assert not copy.deepcopy(handle).attached
