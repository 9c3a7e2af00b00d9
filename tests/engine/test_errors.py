"""Bad input: each error is read, and the model works on afterwards as if nothing had been asked."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

import vtokens
from tests.engine.cases import model
from tests.engine.compare import SPEC, one
from tests.families import ALL, FAMILIES, OUTSIDE, STATEFUL, build
from vtokens.adapters.registry import WITHOUT, adapter_class

pytestmark = pytest.mark.usefixtures("no_grad")
EVERY = pytest.mark.parametrize("family", FAMILIES)
SUPPORTED = ", ".join(sorted({*ALL, *STATEFUL, *OUTSIDE, "fast_vlm", "perception_lm"}))


@pytest.mark.parametrize("name", ["random", "uniform", "cls", "fastv", "todre"])
@pytest.mark.parametrize(
    ("keep", "kind", "reason"),
    [
        (0, ValueError, r"keep=0 keeps nothing: "),
        (-3, ValueError, r"keep=-3 keeps nothing: "),
        (0.0, ValueError, r"keep=0\.0 is out of range: "),
        (-0.5, ValueError, r"keep=-0\.5 is out of range: "),
        (1.5, ValueError, r"keep=1\.5 is out of range: "),
        (64.0, ValueError, r"keep=64\.0 is out of range: .*did you mean keep=64\?"),
        (float("nan"), ValueError, r"keep=nan is out of range: "),
        (True, TypeError, r"keep=True is not a number: "),
        ("half", TypeError, r"keep='half' is not a number: "),
    ],
)
def test_keep(name: str, keep: Any, kind: type[Exception], reason: str) -> None:
    """However it is given, the value is named, and what is allowed."""
    target = model("llava", "pruned")
    allowed = r"(?=.*a float in \(0, 1\] is a share of the visual tokens, an int >= 1 is a count per image)"
    for spec, options in ((name, {"keep": keep}), ({"name": name, "keep": keep}, {}), (f"{name}(keep={keep!r})", {})):
        with pytest.raises(kind, match=allowed + reason):
            vtokens.attach(target, spec, **options)
    assert vtokens.attachment(target) is None


@EVERY
@pytest.mark.parametrize("spec", ["random", "uniform", "cls", "fastv(layer=2)", "fastv(pool=sample)", "todre"])
def test_keep_larger_than_the_count(family: str, spec: str) -> None:
    """Known only when a picture comes; a picture with enough tokens goes through."""
    target, batch = model(family, "pruned"), one(family)
    strategy = {**vtokens.strategies.to_dict(vtokens.strategies.parse(spec)[0]), "keep": 1000}
    with vtokens.attach(target, "none") as handle:
        target(**batch)
        count = handle.report().samples[0].visual_tokens[0]
    with vtokens.attach(target, strategy):
        reason = rf"keep=1000 asks for more than the {count} visual tokens there are: an int from 1 to {count} is"
        for call in (target, partial(target.generate, max_new_tokens=1)):
            with pytest.raises(ValueError, match=reason):
                call(**batch)
    with vtokens.attach(target, {**strategy, "keep": count}):
        assert target(**batch).logits.isfinite().all()


@EVERY
def test_layers_out_of_range(family: str) -> None:
    target = model(family, "pruned")
    for spec, reason in {
        "fastv(layer=0)": r"layer=0 is out of range for a model with 4 layers: 1 to 3 is allowed, the nearest is 1",
        "fastv(layer=17)": r"layer=17 is out of range .* the nearest is 3",
        "cls(layers=(1, -5))": r"layers=-5 is out of range .*: -4 to 3 is allowed, the nearest is -4",
        "cls(layers=())": r"layers=\(\) names no tower block",
    }.items():
        with pytest.raises(ValueError, match=reason):
            vtokens.attach(target, spec)
    with pytest.raises(TypeError, match=r"layer=1.5 is not allowed: a whole number is"):
        vtokens.attach(target, "fastv(layer=1.5)")


def switch_checkpointing(target: Any, how: str) -> None:
    """ "enable" or "disable" it, under the name that the installed transformers has for it."""
    newer = getattr(target, f"activation_checkpointing_{how}", None)
    (newer or getattr(target, f"gradient_checkpointing_{how}"))()


@EVERY
def test_attentions_and_checkpointing_are_refused(family: str) -> None:
    target, batch = build(family, attn_implementation="eager")[0], one(family)
    with vtokens.attach(target, SPEC):
        expected = target(**batch).logits
        with pytest.raises(ValueError, match=r"output_attentions=True cannot be met .* or detach\(\) first"):
            target(**batch, output_attentions=True)
        target.train()
        switch_checkpointing(target, "enable")
        with (
            torch.enable_grad(),
            pytest.raises(ValueError, match=r"gradient checkpointing .*_disable\(\)"),
        ):
            target(**batch)
        target.eval()
        assert torch.equal(target(**batch).logits, expected)  # in evaluation nothing is checkpointed
        switch_checkpointing(target, "disable")
        target.train()
        assert torch.equal(target(**batch).logits, expected)
    assert target(**batch, output_attentions=True).attentions[0].shape[-1] == batch["input_ids"].shape[1]


def test_models_without_an_adapter() -> None:
    """Another family, a text model, no model at all, and a part that holds no decoder."""
    tiny: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    text = LlamaForCausalLM(LlamaConfig(**tiny))
    with pytest.raises(
        ValueError, match=rf"LlamaForCausalLM: there is no adapter .*'llama' .*{SUPPORTED}, and docs/add-a-model.md"
    ):
        vtokens.attach(text, "cls")
    assert isinstance(text.model, LlamaModel)
    for thing in (nn.Linear(2, 2), "llava", None):
        with pytest.raises(TypeError, match=r"is not a transformers model"):
            vtokens.attach(thing, "cls")
    tower = build("qwen2_vl")[0].model.visual
    with pytest.raises(ValueError, match=r"no adapter|no language model inside"):
        vtokens.attach(tower, "cls")


@pytest.mark.parametrize("family", sorted(WITHOUT))
def test_families_that_are_asked_for_say_why_they_are_not_there(family: str) -> None:
    assert family in CONFIG_MAPPING_NAMES
    with pytest.raises(
        ValueError, match=rf"'{family}' \(config.model_type\), as {re.escape(WITHOUT[family])}; supported"
    ):
        adapter_class(family)
