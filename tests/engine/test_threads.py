"""Threads on one model: what one runs in a `with` block is not the others' business, in whichever order it is left."""

from __future__ import annotations

import asyncio
import contextvars
import os
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from transformers import TextIteratorStreamer

import vtokens
from tests.engine.cases import model
from tests.engine.compare import GREEDY, one, ragged
from tests.engine.masked import decoder_layers
from tests.engine.state import snapshot
from tests.families import build, inputs
from tests.families.processors import tokenizer
from vtokens.adapters import adapter_for
from vtokens.engine import context
from vtokens.engine.attach import joined
from vtokens.engine.installed import engine_on
from vtokens.strategies import Facts, Needs, Strategy, parse

ROUNDS = 8


@pytest.fixture(autouse=True)
def _often() -> Iterator[None]:
    """Threads change places every few instructions, so that a few rounds meet in many ways."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    with torch.no_grad():
        yield
    sys.setswitchinterval(before)


@dataclass(frozen=True)
class Watch(Strategy):
    """Notes how many keys each call of a layer sees, and in which thread."""

    name = "watch"
    layer: int = 2
    keys: list[int] = field(default_factory=list, compare=False)
    threads: set[int] = field(default_factory=set, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=(self.layer,))

    def at_attend(self, heads: Any) -> None:
        self.keys.append(heads.key.shape[2])
        self.threads.add(threading.get_ident())


def test_where_processes_are_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where `os` has no such function; `context` imports nothing but the standard library."""
    monkeypatch.delattr(os, "register_at_fork")
    found = runpy.run_path(context.__file__)
    with found["lock"]:
        assert found["entries"]() == ()


def together(*works: Callable[[], Any], count: int = ROUNDS) -> list[list[Any]]:
    """What each work gave in each round, all of them running at the same time."""
    results: list[list[Any]] = [[] for _ in works]
    errors: list[BaseException] = []
    gate = threading.Barrier(len(works))

    @torch.no_grad()
    def rounds(number: int) -> None:
        try:
            gate.wait(60)
            for _ in range(count):
                results[number].append(works[number]())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=rounds, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


@pytest.mark.parametrize("attached", [None, "cls(keep=0.5)+pai(beta=0.1)"])
@pytest.mark.parametrize(
    "spec", ["fastv(keep=0.3, layer=1)+vhr", "dymu(thresholds=(0.9, 0.9, 0.9))", "todre(keep=0.3)", "none"]
)
def test_blocks_beside_generate(attached: str | None, spec: str) -> None:
    """One thread enters and leaves blocks, another generates all the while: each answers as it does alone."""
    target, first, second = build("llava")[0], one("llava"), ragged("llava")
    target.generate(**second, **GREEDY)
    clean = snapshot(target)
    handle = None if attached is None else vtokens.attach(target, attached)

    def block() -> Any:
        watch = Watch()
        with joined(target) as outer, outer.running(*parse(spec), watch):
            return target(**first).logits, watch.keys, outer.report().samples[0].visual_tokens

    def generate() -> Any:
        tokens = target.generate(**second, **GREEDY)
        return tokens, handle and handle.report().samples[0].visual_tokens

    alone = block(), generate()
    blocks, answers = together(block, generate)
    for logits, *rest in blocks:
        assert torch.equal(logits, alone[0][0])
        assert tuple(rest) == alone[0][1:]
    for tokens, kept in answers:
        assert torch.equal(tokens, alone[1][0])
        assert kept == alone[1][1]
    vtokens.detach(target)
    assert snapshot(target) == clean


def test_a_pass_under_way_puts_nothing_back_that_another_thread_removed() -> None:
    target, _ = build("llava")
    clean = snapshot(target)
    with joined(target, *parse("vhr+vcd")):
        engine = engine_on(adapter_for(target))
        assert engine is not None
        parts = dict(engine.standing)
    assert snapshot(target) == clean
    parts["tap", 0].follow(decoder_layers(target)[0].self_attn)
    parts["head"].follow(target.get_output_embeddings())
    assert snapshot(target) == clean


def test_two_threads_join_and_leave_a_model_that_has_nothing() -> None:
    """Each block puts hooks on and takes them off; none is missed by the other, and none is left."""
    target, batches = build("llava")[0], [one("llava"), ragged("llava")]
    specs = ["fastv(keep=0.3, layer=1)", "vhr+cls(keep=0.4)"]
    target(**batches[0])
    clean = snapshot(target)

    def work(number: int) -> Any:
        with joined(target, *parse(specs[number])) as handle:
            tokens = target.generate(**batches[number], **GREEDY)
            return tokens, handle.report().samples[0].visual_tokens

    alone = [work(number) for number in range(2)]
    for found, expected in zip(together(partial(work, 0), partial(work, 1)), alone, strict=True):
        assert all(torch.equal(tokens, expected[0]) and kept == expected[1] for tokens, kept in found)
    assert snapshot(target) == clean


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_blocks_left_in_any_order(attached: bool, order: tuple[int, ...]) -> None:
    """A block holds until it is left itself; after the last one the handle's own strategies do, then nothing."""
    target, batch = build("llava")[0], one("llava")
    plain = target(**batch).logits
    clean = snapshot(target)
    handle = vtokens.attach(target, "cls(keep=0.5)") if attached else None
    own = target(**batch).logits
    watches = [Watch(layer) for layer in (1, 2, 3)]
    blocks = [ExitStack() for _ in watches]
    for block, watch in zip(blocks, watches, strict=True):
        block.enter_context(joined(target, watch))
    for number in order:
        blocks[number].close()
        seen = len(watches[number].keys)
        target(**batch)
        still = [other for other in range(3) if order.index(other) > order.index(number)]
        assert len(watches[number].keys) == seen or any(other > number for other in still)
        assert all(watches[other].keys for other in still)
    counts = [len(watch.keys) for watch in watches]
    assert torch.equal(target(**batch).logits, own)
    assert [len(watch.keys) for watch in watches] == counts
    assert vtokens.attachment(target) is handle
    vtokens.detach(target)
    assert snapshot(target) == clean
    assert torch.equal(target(**batch).logits, plain)


def test_detaching_inside_a_block_leaves_nothing_there_and_then() -> None:
    target, batch, watch = build("llava")[0], one("llava"), Watch()
    plain = target(**batch).logits
    clean = snapshot(target)
    with ExitStack() as stack:
        handle = vtokens.attach(target, "cls(keep=0.5)+vhr")
        stack.enter_context(handle.joined(watch))
        stack.enter_context(handle.running(*parse("fastv(keep=0.3)"), watch))
        handle.detach()
        assert snapshot(target) == clean
        assert torch.equal(target(**batch).logits, plain)
        other = vtokens.attach(target, "fastv(keep=0.3)")
        pruned = target(**batch).logits
    assert not watch.keys
    assert not torch.equal(pruned, plain)
    assert torch.equal(target(**batch).logits, pruned)
    other.detach()
    assert snapshot(target) == clean


def test_detaching_while_another_thread_is_in_a_block() -> None:
    """It goes on as it began, also under a new attachment, and takes the last hooks away as it leaves."""
    target, batch = build("llava")[0], one("llava")
    plain = target(**batch).logits
    clean = snapshot(target)
    handle = vtokens.attach(target, "cls(keep=0.5)")
    entered, detached = threading.Event(), threading.Event()
    found: list[torch.Tensor] = []

    @torch.no_grad()
    def work() -> None:
        with handle.joined(Watch()):
            found.append(target(**batch).logits)
            entered.set()
            assert detached.wait(60)
            found.append(target(**batch).logits)

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(60)
    handle.detach()
    assert vtokens.attachment(target) is None
    assert torch.equal(target(**batch).logits, plain)
    with vtokens.attach(target, "fastv(keep=0.3)") as other:
        pruned = target(**batch).logits
        detached.set()
        thread.join()
        assert other.report().strategy == "fastv(keep=0.3)"
        assert torch.equal(target(**batch).logits, pruned)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], plain)
    assert snapshot(target) == clean


def test_each_thread_is_told_of_its_own_pass() -> None:
    """Threads side by side keep their reports; who waits for a thread that it started is told of that one's."""
    target, batches = build("llava")[0], [one("llava"), ragged("llava")]
    with vtokens.attach(target, "cls(keep=0.5)") as handle:
        gate, told = threading.Barrier(2), dict[int, int]()

        @torch.no_grad()
        def work(number: int) -> None:
            target(**batches[number])
            for turn in (0, 1, 0):  # whoever was the last
                gate.wait(60)
                if number == turn:
                    target(**batches[number])
            gate.wait(60)
            told[number] = len(handle.report().samples)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == {0: 1, 1: 3}
        target(**batches[0])
        assert len(handle.report().samples) == 1
        streamer = TextIteratorStreamer(tokenizer("llava"), timeout=60)
        thread = threading.Thread(target=target.generate, kwargs={**batches[0], **GREEDY, "streamer": streamer})
        thread.start()
        "".join(streamer)
        thread.join()
        assert len(handle.report().samples) == 1
        thread = threading.Thread(target=target.generate, kwargs={**batches[1], **GREEDY})
        thread.start()
        thread.join()
        assert len(handle.report().samples) == 3
        target(**batches[0])
        assert len(handle.report().samples) == 1


def prompts() -> list[dict[str, Any]]:
    """Two other prompts about the picture of `one`."""
    batch, found = one("llava"), []
    for text in ("a", "b"):
        other = inputs("llava", [text], [[]])
        found.append({name: torch.cat([other[name], batch[name]], 1) for name in ("input_ids", "attention_mask")})
    return found


def test_a_streamers_thread_has_the_negative_prompt() -> None:
    """As users write it, as asyncio does it, and with the context handed on."""
    target, batch, others = model("llava", "pruned"), one("llava"), prompts()
    with vtokens.attach(target, "lqcd(beta=0)") as handle:
        alone = []
        for other in others:
            with handle.negative_prompt(**other):
                alone.append(target.generate(**batch, **GREEDY))
        assert not torch.equal(*alone)
        for other, expected in zip(others, alone, strict=True):
            streamer = TextIteratorStreamer(tokenizer("llava"), timeout=60, skip_prompt=True)
            with handle.negative_prompt(**other):
                thread = threading.Thread(target=target.generate, kwargs={**batch, **GREEDY, "streamer": streamer})
                thread.start()
                text = "".join(streamer)
                thread.join()
                assert text == tokenizer("llava").decode(expected[0, batch["input_ids"].shape[1] :])
                assert torch.equal(
                    asyncio.run(asyncio.to_thread(target.generate, **batch, **GREEDY)),  # type: ignore[arg-type]
                    expected,
                )
        with handle.negative_prompt(**others[0]), handle.negative_prompt(**others[1]):
            assert torch.equal(started(partial(target.generate, **batch, **GREEDY)), alone[1])
        with pytest.raises(ValueError, match="none was given"):
            target.generate(**batch, **GREEDY)


def test_a_thread_that_may_belong_to_several_prompts_is_refused() -> None:
    """Unless it is handed the context; one that ran before the block was entered is never taken for part of it."""
    target, batch, others = model("llava", "pruned"), one("llava"), prompts()
    with vtokens.attach(target, "lqcd(beta=0)") as handle:
        with handle.negative_prompt(**others[0]):
            alone = target.generate(**batch, **GREEDY)
        entered, done = threading.Event(), threading.Event()
        early: list[Any] = []

        def hold() -> None:
            with handle.negative_prompt(**others[1]):
                entered.set()
                assert done.wait(60)

        def wait() -> None:
            assert entered.wait(60)
            early.append(caught(partial(target.generate, **batch, **GREEDY)))

        threads = [threading.Thread(target=work) for work in (wait, hold)]
        for thread in threads:
            thread.start()
        assert entered.wait(60)
        threads[0].join()
        with handle.negative_prompt(**others[0]):
            late = started(partial(caught, partial(target.generate, **batch, **GREEDY)))
            context = contextvars.copy_context()
            given = started(partial(context.run, partial(target.generate, **batch, **GREEDY)))
        done.set()
        threads[1].join()
    assert "none was given" in str(early[0])
    assert "2 threads gave a negative prompt" in str(late)
    assert "copy_context().run" in str(late)
    assert torch.equal(given, alone)


def started(work: Callable[[], Any]) -> Any:
    """What `work` gives in a thread of its own."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(torch.no_grad()(work)()))
    thread.start()
    thread.join()
    return found[0]


def caught(work: Callable[[], Any]) -> ValueError | None:
    """The ValueError that `work` raises."""
    try:
        work()
    except ValueError as error:
        return error
    return None
