"""Ctrl-C and SystemExit in the middle of a pass, of which torch tells no hook: what is used next is right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import GREEDY, one, ragged
from tests.engine.state import snapshot
from tests.families import build

pytestmark = pytest.mark.usefixtures("no_grad")
SPECS = (
    "fastv(keep=0.5, layer=1)+pai(beta=0)",
    "cls(keep=0.5)+vhr(divergence='two_branch')",
    "dymu(thresholds=(0.5, 0.5))",
)
FAMILY = "llava"


def places(target: Any) -> dict[str, tuple[Any, int]]:
    """Modules whose call is cut off, and which of their calls: of the prefill, of its branch, or of a later token."""
    tower, decoder = target.model.vision_tower, target.model.language_model
    return {
        "embedding": (target.get_input_embeddings(), 0),
        "tower": (list(tower.modules())[-1], 0),
        "first layer": (decoder.layers[0].mlp, 0),
        "last layer": (decoder.layers[3].self_attn.o_proj, 0),
        "norm": (decoder.norm, 0),
        "head": (target.lm_head, 0),
        "second token": (decoder.layers[2].mlp, 2),
        "second head": (target.lm_head, 3),
    }


def interrupt(target: Any, place: str, error: type[BaseException], call: Callable[[], Any]) -> None:
    """Cut off `call` at a place."""
    module, count = places(target)[place]
    left = [count]

    def stop(*_: Any) -> None:
        if not left[0]:
            raise error(place)
        left[0] -= 1

    hook = module.register_forward_pre_hook(stop)
    try:
        with pytest.raises(error):
            call()
    finally:
        hook.remove()


def uses(target: Any) -> dict[str, Callable[[], torch.Tensor]]:
    """Ways to use a model, or a part of it, next."""
    batch, text = one(FAMILY), torch.tensor([[7, 8, 9, 10]])
    long = torch.full_like(batch["input_ids"], 9)
    table, decoder = target.get_input_embeddings(), target.model.language_model
    return {
        "model": lambda: target(**batch).logits,
        "text": lambda: target(input_ids=text).logits,
        "multimodal": lambda: target.model(**batch)[0],
        "decoder": lambda: decoder(input_ids=text)[0],
        "decoder by embeddings": lambda: decoder(inputs_embeds=table(text))[0],
        "decoder by as many embeddings": lambda: decoder(inputs_embeds=table(long))[0],
        "head": lambda: target.lm_head(table(text)),
        "generate": lambda: target.generate(**batch, **GREEDY),
    }


@pytest.mark.parametrize(("spec", "error"), [*((spec, KeyboardInterrupt) for spec in SPECS), (SPECS[0], SystemExit)])
def test_what_comes_after_an_interruption(spec: str, error: type[BaseException]) -> None:
    target = build(FAMILY)[0]
    plain = {name: use() for name, use in uses(target).items()}
    clean = snapshot(target)
    with vtokens.attach(target, spec):
        expected = {name: use() for name, use in uses(target).items()}
        assert all(torch.equal(expected[name], plain[name]) for name in plain if "decoder" in name or name == "head")
        for place in places(target):
            whole = partial(target.generate, **ragged(FAMILY), **GREEDY)
            for name, use in uses(target).items():
                interrupt(target, place, error, whole)
                assert torch.equal(use(), expected[name]), (place, name)
    assert snapshot(target) == clean
    for name, use in uses(target).items():
        assert torch.equal(use(), plain[name])


@pytest.mark.parametrize("place", ["tower", "last layer", "norm"])
def test_a_plain_forward_is_cut_off_too(place: str) -> None:
    """Its tower runs inside the pass, and nothing is cached."""
    target = model(FAMILY, "pruned")
    with vtokens.attach(target, SPECS[0]):
        expected = {name: use() for name, use in uses(target).items()}
        for name, use in uses(target).items():
            interrupt(target, place, KeyboardInterrupt, partial(target, **one(FAMILY)))
            assert torch.equal(use(), expected[name]), name


def test_detached_after_an_interruption() -> None:
    target = build(FAMILY)[0]
    plain = {name: use() for name, use in uses(target).items()}
    clean = snapshot(target)
    for place in places(target):
        with vtokens.attach(target, SPECS[0]) as handle, handle.joined():
            interrupt(target, place, KeyboardInterrupt, partial(target.generate, **one(FAMILY), **GREEDY))
        assert snapshot(target) == clean
    for name, use in uses(target).items():
        assert torch.equal(use(), plain[name])
