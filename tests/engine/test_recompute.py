"""Activation checkpointing by wrapped layers, as FSDP does it: refused before the pass, harmless without gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed._composable import checkpoint
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
    offload_wrapper,
)

import vtokens
from tests.families import FAMILIES, build, image, inputs

ORDERS = ("attach first", "wrap first")


def wrap(model: Any, chosen: Callable[[nn.Module], bool], how: CheckpointImpl = CheckpointImpl.NO_REENTRANT) -> None:
    wrapper = partial(checkpoint_wrapper, checkpoint_impl=how)
    apply_activation_checkpointing(model, check_fn=chosen, checkpoint_wrapper_fn=wrapper)


def layers(model: Any) -> Callable[[nn.Module], bool]:
    kind = type(model.model.language_model.layers[0])
    return lambda module: isinstance(module, kind)


def sample(family: str) -> tuple[Any, dict[str, Any]]:
    model, processor = build(family)
    batch = dict(inputs(processor, ["what is <image> this?"], [[image(84, 84, seed=1)]]))
    places = torch.stack([batch["input_ids"] == token for token in (model.config.image_token_id,)]).any(0)
    return model, {**batch, "labels": batch["input_ids"].masked_fill(places, -100)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("order", ORDERS)
def test_wrapped_layers_are_refused_while_training(family: str, order: str) -> None:
    """The pass is not begun, and the model trains again once the strategy is off."""
    for spec in ("uniform(keep=0.5)", "fastv(keep=0.5, layer=1)", "vhr", "vcd"):
        model, batch = sample(family)
        steps = [lambda m=model, s=spec: vtokens.attach(m, s), lambda m=model: wrap(m, layers(m))]
        for step in steps if order == "attach first" else steps[::-1]:
            step()
        ran: list[Any] = []
        hook = model.model.language_model.layers[0].register_forward_hook(lambda *a, ran=ran: ran.append(a))
        for mode in (model.train, model.eval):  # wrappers do it in evaluation too
            mode()
            with pytest.raises(ValueError, match=r"CheckpointWrapper \(.*\) runs layers a second time.*or detach\(\)"):
                model(**batch)
        assert not ran
        hook.remove()
        vtokens.detach(model)
        model.train()(**batch).loss.backward()


@pytest.mark.filterwarnings("ignore:Please specify CheckpointImpl:FutureWarning")  # torch 2.9 wants no REENTRANT
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("what", ["self_attn", "mlp", "language_model", "whole", "reentrant", "composable"])
def test_whatever_part_of_the_decoder_runs_again(what: str, order: str) -> None:
    model, batch = sample("llava")
    decoder, inner = model.model.language_model, model.model

    def wrapping() -> None:
        if what == "composable":
            checkpoint(decoder.layers[2])
        elif what in ("self_attn", "mlp"):
            kind = type(getattr(decoder.layers[0], what))
            wrap(model, lambda module: isinstance(module, kind))
        elif what == "reentrant":
            wrap(model, layers(model), CheckpointImpl.REENTRANT)
        else:
            wrap(model, lambda module: module is (decoder if what == "language_model" else inner))

    steps: list[Callable[[], Any]] = [lambda: vtokens.attach(model, "fastv(keep=0.5, layer=1)"), wrapping]
    for step in steps if order == "attach first" else steps[::-1]:
        step()
    with pytest.raises(ValueError, match="runs layers a second time, without the tokens' layout"):
        model.train()(**batch)


@torch.no_grad()
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("what", ["layers", "self_attn", "tower"])
def test_without_gradients_nothing_runs_again(what: str, order: str) -> None:
    """The same bits as without wrappers, decoded too."""
    for spec in ("cls(keep=0.5)+fastv(keep=0.5, layer=1)", "vhr", "dymu(thresholds=(0.5, 0.5))"):
        (model, batch), (plain, _) = sample("llava"), sample("llava")
        del batch["labels"]
        blocks = type(model.model.vision_tower.encoder.layers[0])
        kinds = {"layers": type(model.model.language_model.layers[0]), "tower": blocks}
        kind = kinds.get(what) or type(model.model.language_model.layers[0].self_attn)
        steps = [
            lambda m=model, s=spec: vtokens.attach(m, s),
            lambda m=model, k=kind: wrap(m, lambda module: isinstance(module, k)),
        ]
        for step in steps if order == "attach first" else steps[::-1]:
            step()
        with vtokens.attach(plain, spec):
            expected = plain.generate(**batch, max_new_tokens=3, do_sample=False)
            assert torch.equal(model(**batch).logits, plain(**batch).logits)
        assert torch.equal(model.generate(**batch, max_new_tokens=3, do_sample=False), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_wrapped_blocks_of_the_tower(order: str) -> None:
    """Merging in them is refused; who only looks on, or acts behind them, trains with the gradients of no wrapper."""
    model, batch = sample("llava")
    kind = type(model.model.vision_tower.encoder.layers[0])
    steps: list[Callable[[], Any]] = [
        lambda: vtokens.attach(model, "dymu(thresholds=(0.5, 0.5))"),
        lambda: wrap(model, lambda module: isinstance(module, kind)),
    ]
    for step in steps if order == "attach first" else steps[::-1]:
        step()
    with pytest.raises(ValueError, match=r"CheckpointWrapper .* runs the tower's blocks a second time"):
        model.train()(**batch)
    vtokens.detach(model)
    plain, _ = sample("llava")
    gradients = []
    for one in (model, plain):
        with vtokens.attach(one, "cls(keep=0.5)"):
            one.train()(**batch).loss.backward()
        gradients.append(
            {name.replace("_checkpoint_wrapped_module.", ""): p.grad for name, p in one.named_parameters()}
        )
    for name, gradient in gradients[1].items():
        assert (gradient is None) == (gradients[0][name] is None)
        if gradient is not None:
            assert torch.equal(gradients[0][name], gradient), name


def test_a_wrapper_that_only_moves_activations_is_none() -> None:
    """torch's offload wrapper is of the same kind, but runs nothing again."""
    model, batch = sample("llava")
    plain, _ = sample("llava")
    apply_activation_checkpointing(model, check_fn=layers(model), checkpoint_wrapper_fn=offload_wrapper)
    for one in (model, plain):
        with vtokens.attach(one, "fastv(keep=0.5, layer=1)"):
            one.train()(**batch).loss.backward()
    assert torch.equal(model.lm_head.weight.grad, plain.lm_head.weight.grad)
