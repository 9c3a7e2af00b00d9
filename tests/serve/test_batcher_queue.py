"""The queue of the batcher: turns, bounds, what runs by itself, and draining."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

import vtokens
from tests.serve.common import Heard, greedy, held, job, loaded, prompt, questions
from vtokens.serve.batcher import Batcher
from vtokens.serve.call import Call
from vtokens.serve.jobs import Began, Draining, Full
from vtokens.serve.turns import Turns


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    model, processor = loaded()
    with vtokens.attach(model, "none") as handle, Batcher(model, processor, handle, most=2, queue=12) as made:
        yield made


def asked(batcher: Batcher, name: str, owner: str = "", strategy: str = "none", order: list[str] | None = None) -> Any:
    inputs = prompt(loaded()[1], "Is it red?")

    def note(event: Any) -> None:
        if order is not None and isinstance(event, Began):
            order.append(name)

    return batcher.submit(job(inputs, strategy, greedy(2), owner=owner), Heard(note))


class Task:
    """Work of an owner, of a kind."""

    def __init__(self, owner: str, number: int, kind: str = "") -> None:
        self.owner, self.number, self.kind = owner, number, kind

    def __repr__(self) -> str:
        return f"{self.owner}{self.number}{self.kind}"


def test_owners_take_turns_and_kinds_do_not_wait_for_each_other() -> None:
    """Batches of three by hand: whose turn it is begins with the oldest, and others fill up, one of each in turn."""
    turns: Turns[Task] = Turns()
    work = [Task("a", 0, "x"), Task("a", 1, "x"), Task("a", 2, "y"), Task("a", 3, "x"), Task("a", 4, "x"),
            Task("b", 0, "y"), Task("b", 1, "x"), Task("c", 0, "x")]  # fmt: skip
    for one in work:
        turns.add(one)
    batches = []
    while batch := turns.batch(3, lambda some, more: some[0].kind == more.kind, lambda one, other: True):
        assert len(turns) == len([*turns])
        turns.take(batch)
        batches.append(repr(batch))
    assert batches == ["[a0x, b1x, c0x]", "[b0y, a2y]", "[a1x, a3x, a4x]"]
    assert len(turns) == 0


def test_what_is_alike_comes_first_and_others_fill_up() -> None:
    """Pruned rows gain nothing beside rows that keep all."""
    turns: Turns[Task] = Turns()
    for number, kind in enumerate("xyxyyx"):
        turns.add(Task("ab"[number % 2], number, kind))
    batches = []
    while batch := turns.batch(3, lambda some, more: True, lambda one, other: one.kind == other.kind):
        turns.take(batch)
        batches.append(repr(batch))
    assert batches == ["[a0x, b5x, a2x]", "[b1y, a4y, b3y]"]


def test_no_batch_is_mostly_padding(batcher: Batcher) -> None:
    """A short prompt does not run at the length of one with a picture."""
    processor = loaded()[1]
    picture = prompt(processor, questions()[0].question, questions()[0].images)
    short = prompt(processor, "Is it red?")
    assert short["input_ids"].shape[1] * 10 < picture["input_ids"].shape[1]
    heard = [Heard() for _ in range(4)]
    with held(batcher):
        waiting = [
            batcher.submit(job(one, "none", greedy(2)), on)
            for one, on in zip((picture, short, picture, short), heard, strict=True)
        ]
    assert all(one.wait(60) for one in waiting)
    assert [one.began.rows for one in heard] == [2] * 4


def test_one_who_asks_once_does_not_wait_for_one_who_asks_often(batcher: Batcher) -> None:
    order: list[str] = []
    with held(batcher):
        many = [asked(batcher, f"a{number}", "a", order=order) for number in range(6)]
        one = asked(batcher, "b", "b", order=order)
        other = asked(batcher, "c", "c", order=order)
    assert all(each.wait(60) for each in (*many, one, other))
    assert order[:4] == ["a0", "b", "c", "a1"]
    assert order[4:] == ["a2", "a3", "a4", "a5"]


def test_a_full_queue_says_when_to_come_again(batcher: Batcher) -> None:
    first = asked(batcher, "first")
    assert first.wait(60)
    while batcher.pace is None:
        time.sleep(0.001)
    with held(batcher):
        assert (batcher.running, batcher.queued) == (1, 0)
        accepted = [asked(batcher, str(number)) for number in range(12)]
        assert batcher.queued == 12
        for ask in (lambda: asked(batcher, "more"), lambda: batcher.alone(print), batcher.room):
            with pytest.raises(Full, match="12 requests are waiting") as full:
                ask()
            assert full.value.queued == 12
            assert full.value.retry_after == pytest.approx(12 * batcher.pace)
        accepted[5].cancel()
        assert accepted[5].wait(60)
        accepted.append(asked(batcher, "now"))  # its place is free at once
    assert all(one.wait(60) for one in accepted)


def test_what_runs_alone_has_its_turn_on_the_thread_of_the_model(batcher: Batcher) -> None:
    order: list[str] = []
    with held(batcher):
        asked(batcher, "a0", "a", order=order)
        asked(batcher, "a1", "a", order=order)
        asked(batcher, "a2", "a", order=order)

        def by_itself() -> str:
            order.append("alone")
            return threading.current_thread().name

        future = batcher.alone(by_itself, owner="b")
        broken = batcher.alone(lambda: 1 // 0, owner="b")
        late = batcher.alone(print, owner="b", deadline=0.01)
        with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
            late.result(60)
        gone = batcher.alone(print, owner="b")
        assert gone.cancel()
    assert future.result(60) == "vtokens-batcher"
    with pytest.raises(ZeroDivisionError):
        broken.result(60)
    last = asked(batcher, "last", order=order)
    assert last.wait(60)
    assert order == ["a0", "a1", "alone", "a2", "last"]


def test_draining_waits_for_what_was_accepted(batcher: Batcher) -> None:
    with held(batcher):
        accepted = [asked(batcher, str(number), strategy=("none", "vcd")[number % 2]) for number in range(5)]
        found: list[Any] = []
        drain = threading.Thread(target=lambda: found.append(batcher.drain(60)))
        drain.start()
        while not batcher.draining:
            time.sleep(0.001)
        with pytest.raises(Draining, match="shutting down"):
            asked(batcher, "more")
        with pytest.raises(Draining):
            batcher.alone(print)
    drain.join(60)
    assert all(one.done and not one.cut for one in accepted)
    assert (found[0].finished, found[0].cut) == (6, 0)


def test_draining_cuts_what_takes_too_long_and_says_so(batcher: Batcher) -> None:
    inputs, begun = prompt(loaded()[1], "Is it red?"), threading.Event()
    running, waiting = Heard(lambda event: begun.set()), Heard()
    one = batcher.submit(job(inputs, "none", greedy(4000, min_new_tokens=4000)), running)
    assert begun.wait(60)
    other = batcher.submit(job(inputs, "vcd"), waiting)  # which cannot join
    future = batcher.alone(print)
    drained = batcher.drain(0.05)
    assert one.wait(60)
    assert other.wait(60)
    assert running.end.reason == waiting.end.reason == "drained"
    assert running.end.tokens > 0
    assert waiting.end.did is None
    with pytest.raises(CancelledError):
        future.result(60)
    assert (drained.finished, drained.cut) == (0, 3)
    assert drained.seconds >= 0.05


@pytest.mark.parametrize("why", ["deadline", "drained", "cancelled"])
def test_what_is_over_does_not_begin_though_its_turn_came(why: str) -> None:
    begun: list[int] = []
    call = Call(lambda: begun.append(1), "", 0.0 if why == "deadline" else None)
    call.drained = why == "drained"
    if why == "cancelled":
        call.future.cancel()
    call.run()
    with pytest.raises(TimeoutError if why == "deadline" else CancelledError):
        call.future.result(0)
    assert not begun
    assert call.cut is (why == "drained")


def test_closing_ends_the_threads() -> None:
    model, processor = loaded()
    before = threading.active_count()
    with vtokens.attach(model, "none") as handle:
        made = Batcher(model, processor, handle)
        assert threading.active_count() == before + 2
        made.close()
        made.close()
    assert threading.active_count() == before
    with pytest.raises(Draining):
        made.room()


@pytest.mark.parametrize("wrong", [{"most": 0}, {"wait": -1.0}, {"queue": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    model, processor = loaded()
    with vtokens.attach(model, "none") as handle, pytest.raises(ValueError, match="or more is allowed"):
        Batcher(model, processor, handle, **wrong)
