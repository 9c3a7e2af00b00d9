"""Where nothing acts in steps behind a prompt, they are noted without strategies, and the trace is the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import vtokens
from tests.engine.state import snapshot
from tests.families import EVERY, STATEFUL, build
from tests.filter.traced import DEPTH, ask, distances, fixed
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.engine.handle import Handle
from vtokens.engine.installed import engine_on
from vtokens.filter.trace.passes import gated, generate, score
from vtokens.filter.trace.trace import Parts, Trace

PARTS = Parts(
    layers=frozenset({1, 2}), states=frozenset({0, 2, 3, DEPTH}), image_states=frozenset({2, DEPTH}),
    lens=frozenset({DEPTH}),
)  # fmt: skip
LIGHT = (
    "none",
    "cls(keep=0.3)",
    "fastv(keep=0.4, layer=2)",
    "todre(keep=0.4)",
    "dymu(thresholds=(0.5, 0.4, 0.4), unmerge=False)",
)
IN_STEPS = ("vhr", "vcd", "todre(keep=0.5)+vhr", "cls(keep=0.4)+vcd")


def parts_of(model: Any) -> Parts:
    """`PARTS` of the layers that have attention."""
    return dataclasses.replace(PARTS, layers=PARTS.layers & {*adapter_for(model).facts.attending})


class Standing:
    """A logits processor that notes, before each step, how many of the filter's blocks and hooks stand on a model."""

    def __init__(self, model: Any) -> None:
        self.adapter, self.found = adapter_for(model), list[tuple[bool, int]]()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        engine = engine_on(self.adapter)
        others = [] if engine is None else [one for one in engine._blocks if one is not engine.own]
        self.found.append((bool(others), sum(len(layer._forward_pre_hooks) for layer in self.adapter.layers)))
        return scores


def both(
    model: Any, processor: Any, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[list[Trace], Standing, list[Trace]]:
    """Traces as they are recorded, what stood on the model meanwhile, and traces by a strategy told of each step."""
    asked, standing = ask(processor), Standing(model)
    given = {**fixed(processor), **options}
    found = generate(model, processor, *asked, parts_of(model), **given, logits_processor=[standing])
    with monkeypatch.context() as patch:
        patch.setattr(Handle, "light_now", False)
        told = generate(model, processor, *asked, parts_of(model), **given)
    return found, standing, told


def same(one: Trace, other: Trace) -> None:
    """Assert that two traces are equal bit by bit."""
    assert max(distances(one, other).values()) == 0


@pytest.mark.parametrize("family", [*EVERY, *STATEFUL])
def test_steps_alone_give_what_a_strategy_is_told(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit; reading the answers in one pass gives the same to rounding."""
    model, processor = build(family)
    found, standing, told = both(model, processor, monkeypatch)
    states = len(parts_of(model).states - {DEPTH})
    assert standing.found == [(False, states)] * 6
    read = score(model, processor, *ask(processor), [trace.ids.tolist() for trace in found], parts_of(model))
    for one, other, whole in zip(found, told, read, strict=True):
        same(one, other)
        for name in ("logprob", "visual", "gaze", "hidden"):
            close_pass(getattr(one, name), getattr(whole, name))


@pytest.mark.parametrize(
    ("spec", "family"), [(spec, ("llava_next", "qwen2_5_vl")[i % 2]) for i, spec in enumerate((*LIGHT, *IN_STEPS))]
)
def test_behind_strategies_those_that_act_in_steps_are_told(
    family: str, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = build(family)
    with vtokens.attach(model, spec) as handle:
        assert handle.light_now == (spec in LIGHT)
        found, standing, told = both(model, processor, monkeypatch)
        read = score(model, processor, *ask(processor), [trace.ids.tolist() for trace in found], parts_of(model))
    assert {left for left, _ in standing.found} == {spec in IN_STEPS}
    for one, other, whole in zip(found, told, read, strict=True):
        same(one, other)
        close_pass(one.logprob, whole.logprob)
        close_pass(one.visual, whole.visual)


@pytest.mark.parametrize("spec", [None, "cls(keep=0.3)", "fastv(keep=0.4, layer=2)"])
@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_static_caches(family: str, spec: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of the engine's own kind keep its hooks: without a strategy, windows with fixed slots have such."""
    if family == "gemma3" and spec == "cls(keep=0.3)":
        spec = "todre(keep=0.3)"
    model, processor = build(family)
    handle = None if spec is None else vtokens.attach(model, spec)
    found, standing, told = both(model, processor, monkeypatch, cache_implementation="static")
    assert {left for left, _ in standing.found} == {family == "gemma3" and spec is None}
    for one, other in zip(found, told, strict=True):
        for name in ("logprob", "visual", "gaze", "hidden"):
            close_pass(getattr(one, name), getattr(other, name))
    if handle is not None:
        handle.detach()


def test_samples_and_a_response_of_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = build("llava")
    torch.manual_seed(5)
    drawn = {"max_new_tokens": 9, "min_new_tokens": 0, "do_sample": True, "top_k": 0, "num_return_sequences": 2}
    found = generate(model, processor, *ask(processor), PARTS, **drawn)
    assert len(found) == 6
    each = [number for number in range(3) for _ in range(2)]
    images, prompts = ask(processor)
    ids = [trace.ids.tolist() for trace in found]
    read = score(model, processor, [images[i] for i in each], [prompts[i] for i in each], ids, PARTS)
    for one, other in zip(found, read, strict=True):
        close_pass(one.logprob, other.logprob)
        close_pass(one.visual, other.visual)
    one, _, told = both(model, processor, monkeypatch, max_new_tokens=1, min_new_tokens=1)
    for first, second in zip(one, told, strict=True):
        assert len(first) == 1
        same(first, second)


def test_nothing_stands_on_the_model_while_an_answer_that_was_let_through_is_written() -> None:
    model, processor = build("llava")
    generate(model, processor, *ask(processor), Parts(), **fixed(processor, 1))  # transformers notes things of its own
    clean, seen = snapshot(model), list[bool]()

    def look(input_ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(snapshot(model) == clean)
        return scores

    gated(model, processor, *ask(processor), PARTS, lambda _: True, **fixed(processor), logits_processor=[look])
    assert seen == [True] * 6
    gated(model, processor, *ask(processor), PARTS, lambda _: False, **fixed(processor), logits_processor=[look])
    assert seen[6:] == [False] * 6
    assert snapshot(model) == clean


def test_a_call_of_the_model_in_between_is_noticed() -> None:
    """Who asks the same model for something else while it writes gets a trace that was read, not a wrong one."""
    model, processor = build("llava")
    asked, alone = ask(processor), fixed(processor)
    expected = generate(model, processor, *asked, PARTS, **alone)

    def another(input_ids: Tensor, scores: Tensor) -> Tensor:
        model.model.language_model(input_ids=input_ids[:, -1:])
        return scores

    for trace, other in zip(
        generate(model, processor, *asked, PARTS, **alone, logits_processor=[another]), expected, strict=True
    ):
        close_pass(trace.logprob, other.logprob)
        close_pass(trace.hidden, other.hidden)
