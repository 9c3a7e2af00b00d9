"""Errors in the middle of a call, consumers that walk away, and threads: nothing reaches the next call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from transformers import TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

import vtokens
from tests.engine.cases import model
from tests.engine.compare import GREEDY, SPEC, one, ragged
from tests.engine.state import snapshot
from tests.families import FAMILIES, build
from tests.families.processors import tokenizer
from vtokens.strategies import Facts, Needs, Selection, Strategy, Visuals

pytestmark = pytest.mark.parametrize("family", FAMILIES)


class Stop(Exception):
    """What the tests throw."""


@dataclass(frozen=True)
class Fragile(Strategy):
    """Throws at a stage while `BROKEN` holds its name, and otherwise keeps the first half."""

    name = "fragile"

    def needs(self, facts: Facts) -> Needs:
        return Needs(layer=(2,))

    def _half(self, visuals: Visuals, stage: str) -> Selection:
        if stage in BROKEN:
            raise Stop(stage)
        return visuals.top(-visuals.cells.float(), 0.5)

    def at_prompt(self, visuals: Visuals) -> Selection:
        return self._half(visuals, "prompt")

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        return self._half(visuals, "layer")


BROKEN: set[str] = set()


@pytest.fixture(autouse=True)
def _whole() -> Any:
    BROKEN.clear()
    with torch.no_grad():
        yield


def modules(target: Any, place: str) -> Any:
    """Where a hook is to throw."""
    tower = getattr(target.model, "vision_tower", None) or target.model.visual
    return {"decoder": target.model.language_model.layers[3].mlp, "tower": list(tower.modules())[-1]}[place]


def thrower(target: Any, place: str) -> Callable[[], None]:
    """Make a stage, a decoder layer or the tower throw; returns what mends it."""
    if place in ("prompt", "layer"):
        BROKEN.add(place)
        return BROKEN.clear

    def hook(*_: Any) -> None:
        raise Stop(place)

    return modules(target, place).register_forward_pre_hook(hook).remove


@pytest.mark.parametrize("place", ["prompt", "layer", "decoder", "tower"])
def test_an_exception_leaves_the_model_as_new(family: str, place: str) -> None:
    """The next call, still attached, gives the bits it gave before; detached, so does the plain model."""
    target, batch, other = build(family)[0], one(family), ragged(family)
    plain = target(**batch).logits, target.generate(**batch, **GREEDY)
    before = snapshot(target)
    with vtokens.attach(target, [Fragile(), *vtokens.strategies.parse("cls(keep=0.9)+fastv(keep=0.9, layer=3)")]):
        expected = target(**batch).logits, target.generate(**batch, **GREEDY)
        for call in (target, partial(target.generate, **GREEDY)):
            mend = thrower(target, place)
            with pytest.raises(Stop):
                call(**other)
            mend()
            assert torch.equal(target(**batch).logits, expected[0])
            assert torch.equal(target.generate(**batch, **GREEDY), expected[1])
            text = {name: batch[name][:, -4:] for name in ("input_ids", "attention_mask")}
            assert torch.equal(target(**text).logits, model(family, "plain")(**text).logits)
    assert snapshot(target) == before
    assert torch.equal(target(**batch).logits, plain[0])
    assert torch.equal(target.generate(**batch, **GREEDY), plain[1])


class Leaving(BaseStreamer):
    """A consumer that walks away after two tokens."""

    def __init__(self) -> None:
        self.puts = 0

    def put(self, value: torch.Tensor) -> None:
        self.puts += 1
        if self.puts > 2:
            raise Stop("enough")

    def end(self) -> None:
        raise AssertionError("nobody was to get here")


def test_a_stream_that_ends_early(family: str) -> None:
    """Whether the consumer throws in the midst of decoding or just stops reading."""
    pruned, batch = model(family, "pruned"), one(family)
    with vtokens.attach(pruned, SPEC):
        expected = pruned.generate(**batch, **GREEDY)
        with pytest.raises(Stop):
            pruned.generate(**batch, **GREEDY, streamer=Leaving())
        assert torch.equal(pruned.generate(**batch, **GREEDY), expected)
        streamer = TextIteratorStreamer(tokenizer(family), timeout=60)
        worker = threading.Thread(target=pruned.generate, kwargs={**batch, **GREEDY, "streamer": streamer})
        worker.start()
        next(iter(streamer))
        del streamer
        worker.join()
        assert torch.equal(pruned.generate(**batch, **GREEDY), expected)


@pytest.mark.parametrize("shared", [False, True], ids=["two models", "one model"])
def test_threads_do_not_disturb_each_other(family: str, shared: bool) -> None:
    """Two threads generate at the same time, on two attached models or on one; each gets what it gets alone."""
    targets = [model(family, "pruned"), model(family, "pruned") if shared else model(family, "second")]
    batches, specs = [one(family), ragged(family)], [SPEC, SPEC if shared else "todre(keep=0.3, exit_threshold=2.0)"]
    handles = [vtokens.attach(target, spec) for target, spec in zip(targets[: 2 - shared], specs, strict=False)]
    try:
        expected = [target.generate(**batch, **GREEDY) for target, batch in zip(targets, batches, strict=True)]
        results: list[list[torch.Tensor]] = [[], []]
        gate = threading.Barrier(2)

        def work(number: int) -> None:
            gate.wait(60)
            for _ in range(8):
                results[number].append(targets[number].generate(**batches[number], **GREEDY))

        workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for handle in handles:
            handle.detach()
    for mine, wanted in zip(results, expected, strict=True):
        assert len(mine) == 8
        assert all(torch.equal(tokens, wanted) for tokens in mine)
