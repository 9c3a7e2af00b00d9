"""Rows that are done leave a batch, and others join it while it is written: each answers as it does alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicLayer

import vtokens
from tests.limits import close_pass
from tests.serve.common import Heard, alone, answers, greedy, job, loaded, prompt, questions, sampled
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.engine.state.roomy import RoomyLayer
from vtokens.scenes import clips
from vtokens.serve.batcher import Batcher
from vtokens.serve.jobs import Began, Event, Job, Text
from vtokens.video.clip import arguments

STRATEGIES = (
    "none", "cls(keep=0.25)", "fastv(keep=0.5, layer=2)", "todre(keep=0.2)", "divprune(keep=0.3, positions='compact')",
    "cls(keep=0.1)+fastv(keep=0.5, layer=3)",
)  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Any, Any, Any, Batcher]]:
    model, processor = loaded()
    with vtokens.attach(model, "none") as handle, Batcher(model, processor, handle, wait=0, most=4) as batcher:
        yield model, processor, handle, batcher


@contextmanager
def passes(model: Any) -> Iterator[list[tuple[int, int]]]:
    """The rows and positions of each call of the decoder."""
    found: list[tuple[int, int]] = []

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        found.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    handle = model.model.language_model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def in_turn(batcher: Batcher, jobs: list[Job], places: list[int]) -> list[Heard]:
    """Submit the first job, and each other one when the first has written so many tokens, from the model's thread."""
    waiting: list[Any] = []
    left = sorted(zip(places, range(1, len(jobs)), strict=True))
    heard = [Heard() for _ in jobs]
    written = 0

    def next_ones(event: Event) -> None:
        nonlocal written
        written += len(event.tokens) if isinstance(event, Text) else 0
        while left and left[0][0] <= written and not isinstance(event, Began):
            number = left.pop(0)[1]
            waiting.append(batcher.submit(jobs[number], heard[number]))

    heard[0] = Heard(next_ones)
    assert batcher.submit(jobs[0], heard[0]).wait(60)
    assert not left
    assert all(one.wait(60) for one in waiting)
    return heard


def words(most: int, **more: Any) -> Any:
    """Settings under which so many tokens are written, each of which has text."""
    return greedy(most, min_new_tokens=most, suppress_tokens=list(range(7)), **more)


def rows_of(heard: list[Heard]) -> list[int]:
    return [one.began.rows for one in heard]


def test_drawn_jobs_that_join_and_leave_answer_as_alone(served: Any) -> None:
    model, processor, handle, batcher = served
    draw = random.Random(3)
    joined = 0
    for _ in range(3):
        jobs = []
        for number in range(7):
            one, most = draw.choice(questions()), 30 if number == 0 else draw.randint(1, 9)
            inputs = prompt(processor, one.question + draw.choice(["", " Is it so?"]), one.images)
            more = {"min_new_tokens": most} if draw.random() < 0.7 else {}
            settings = words(most) if number == 0 else draw.choice([
                greedy(most, **more), sampled(most, temperature=2.0, **more),
                greedy(most, repetition_penalty=1.4, **more),
            ])  # fmt: skip
            jobs.append(job(inputs, draw.choice(STRATEGIES), settings, seed=number))
        heard = in_turn(batcher, jobs, [draw.randint(1, 18) for _ in jobs[1:]])
        joined += sum(rows > 1 for rows in rows_of(heard))
        for one, told in zip(jobs, heard, strict=True):
            expected = alone(model, handle, one)
            assert list(told.end.ids) == expected, one.program
            assert told.text == processor.tokenizer.decode(expected, skip_special_tokens=True)
    assert joined > 10


def test_what_joins_does_not_wait_for_the_end(served: Any) -> None:
    """And a batch gets smaller once half of its rows are done, its padding with them."""
    model, processor, _, batcher = served
    one = questions()[0]
    long, short = prompt(processor, one.question, one.images), prompt(processor, "Is it red?", one.images)
    jobs = [job(long, "none", words(40))]
    jobs += [job(short, "cls(keep=0.2)", words(3)) for _ in range(3)]
    with passes(model) as calls:
        heard = in_turn(batcher, jobs, [5, 5, 20])
    assert rows_of(heard) == [1, 3, 3, 2]
    assert [len(told.end.ids) for told in heard] == [40, 3, 3, 3]
    steps = [rows for rows, positions in calls if positions == 1]
    assert [rows for rows, positions in calls if positions > 1] == [1, 2, 1]
    assert max(steps) == 3
    assert steps[0] == steps[-1] == 1
    assert len(steps) == 39
    assert sum(steps) <= 39 + 2 * 2 + 2 + 2  # each of the others for its two steps, and at most one more


def test_likelihoods_of_what_joined_are_those_of_it_alone(served: Any) -> None:
    _, processor, _, batcher = served
    sample = questions()
    jobs = [
        job(prompt(processor, one.question, one.images), name, words(12), logprobs=3)
        for one, name in zip(sample, STRATEGIES, strict=False)
    ]
    apart = [answers(batcher, [one])[0].tokens for one in jobs]
    heard = in_turn(batcher, jobs, [2, 3, 4, 7, 9])
    assert max(rows_of(heard)) == 4
    for told, expected in zip(heard, apart, strict=True):
        assert [token.id for token in told.tokens] == [token.id for token in expected]
        found = [[token.logprob, *(value for _, value in token.top)] for token in told.tokens]
        close_pass(torch.tensor(found), torch.tensor([[t.logprob, *(v for _, v in t.top)] for t in expected]))


def test_videos_and_text_join_where_positions_have_several_axes() -> None:
    model, processor = loaded("scenes-qwen")
    inputs = [
        dict(encode_prompts(processor, [question_prompt(processor, one.question, ["video"])], **arguments([one.video])))
        for one in clips.examples("test", n=3, frames=8)
    ]
    inputs += [prompt(processor, questions()[0].question, questions()[0].images), prompt(processor, "Is it red? " * 8)]
    names = ["uniform(keep=0.5)", "none", "divprune(keep=0.2)", "cdpruner(keep=0.3)", "none"]
    jobs = [
        job(one, name, greedy(most, min_new_tokens=most, suppress_tokens=list(range(7))))
        for one, name, most in zip(inputs, names, (24, 5, 9, 4, 7), strict=True)
    ]
    with vtokens.attach(model, "none") as handle, Batcher(model, processor, handle, wait=0) as batcher:
        heard = in_turn(batcher, jobs, [2, 3, 6, 8])
        assert [list(told.end.ids) for told in heard] == [alone(model, handle, one) for one in jobs]
        assert max(rows_of(heard)) > 2


def test_what_acts_in_every_step_has_its_turn_and_is_not_joined(served: Any) -> None:
    """Whose turn it is comes next, though others that could join keep coming."""
    model, processor, handle, batcher = served
    inputs = prompt(processor, questions()[1].question, questions()[1].images)
    plain = job(inputs, "none", words(12), owner="a")
    jobs = [plain, job(inputs, "vcd", greedy(4), owner="b"), *[plain] * 4]
    order: list[int] = []

    def noting(number: int) -> Heard:
        return Heard(lambda event: order.append(number) if isinstance(event, Began) else None)

    heard = [noting(number) for number in range(6)]
    waiting: list[Any] = []

    def others(event: Event) -> None:
        if isinstance(event, Began):
            waiting.extend(batcher.submit(one, on) for one, on in zip(jobs[1:], heard[1:], strict=True))

    first = Heard(others)
    assert batcher.submit(jobs[0], first).wait(60)
    assert all(one.wait(60) for one in waiting)
    assert order[0] == 1
    assert heard[1].began.rows > 1  # others run beside it, from their beginning
    for one, told in zip(jobs, (first, *heard[1:]), strict=True):
        assert list(told.end.ids) == alone(model, handle, one)


def test_what_runs_by_itself_waits_for_those_that_run_and_is_not_lost(served: Any) -> None:
    _, processor, _, batcher = served
    inputs = prompt(processor, questions()[1].question, questions()[1].images)
    futures: list[Any] = []

    def call(event: Event) -> None:
        if not isinstance(event, Began):  # the last of them while the batch ends
            futures.append(batcher.alone(lambda: batcher.running))

    assert batcher.submit(job(inputs, "none", words(3)), Heard(call)).wait(60)
    assert [one.result(60) for one in futures] == [1] * 4


def test_stops_cancels_and_deadlines_of_what_joined(served: Any) -> None:
    model, processor, handle, batcher = served
    one = next(one for one in questions() if one.images)
    inputs = prompt(processor, one.question, one.images)
    long = job(inputs, "none", words(60))
    text = processor.tokenizer.decode(alone(model, handle, long), skip_special_tokens=True)
    stop = text[len(text) // 3 : len(text) // 3 + 6]
    stopped = job(inputs, "none", words(60, stop_strings=[stop]))
    late = job(inputs, "cls(keep=0.3)", words(500), deadline=0.2)
    gone = job(inputs, "none", words(500))
    waiting: list[Any] = []
    heard = {"stopped": Heard(), "late": Heard()}
    heard["gone"] = Heard(lambda event: waiting[-1].cancel() if isinstance(event, Text) and len(waiting) == 3 else None)

    def others(event: Event) -> None:
        if isinstance(event, Text) and not waiting:
            for name, asked in (("stopped", stopped), ("late", late), ("gone", gone)):
                waiting.append(batcher.submit(asked, heard[name]))

    first = Heard(others)
    waiting_first = batcher.submit(long, first)
    assert waiting_first.wait(60)
    assert all(one.wait(60) for one in waiting)
    assert list(first.end.ids) == alone(model, handle, long)
    assert (heard["stopped"].end.reason, heard["stopped"].text) == ("stop", text[: text.index(stop)])
    assert [heard[name].end.reason for name in ("late", "gone")] == ["deadline", "cancelled"]
    assert 0 < heard["gone"].end.tokens < 10


def test_a_step_that_fails_is_run_again_for_each_row_that_is_left(served: Any) -> None:
    model, processor, handle, batcher = served
    sample = questions()[:3]
    jobs = [job(prompt(processor, one.question, one.images), "none", words(9)) for one in sample]
    calls = 0

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal calls
        calls += len(kwargs["inputs_embeds"]) == 3
        if calls == 2 and len(kwargs["inputs_embeds"]) == 3:
            raise RuntimeError("no more room for three")

    handle_ = model.model.language_model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        heard = in_turn(batcher, jobs, [2, 3])
    finally:
        handle_.remove()
    assert calls == 2
    for one, told in zip(jobs, heard, strict=True):
        expected = alone(model, handle, one)
        assert list(told.end.ids) == expected
        assert [token.id for token in told.tokens] == expected
        assert sum(isinstance(event, Began) for event in told.events) == 1


def test_roomy_layers_hold_what_transformers_own_hold() -> None:
    torch.manual_seed(0)

    def new(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(batch, 2, length, 4), torch.randn(batch, 2, length, 4)

    first = new(3, 5)
    plain: Any = DynamicLayer()
    plain.update(*first)
    roomy: Any = RoomyLayer(*first)
    for batch, change in [(3, None), (3, "select"), (2, None), (2, "crop"), (2, "reorder"), (2, None)] + [
        (2, None)
    ] * 70:
        if change == "select":
            batch = 2
        for layer in (plain, roomy):
            if change == "select":
                layer.batch_select_indices(torch.tensor([0, 2]))
            elif change == "crop":
                layer.crop(-2)
            elif change == "reorder":
                layer.reorder_cache(torch.tensor([1, 0]))
        more = new(batch, 1 if change is None else 2)
        for mine, theirs in zip(roomy.update(*more), plain.update(*more), strict=True):
            assert torch.equal(mine, theirs)
        assert roomy.get_seq_length() == plain.get_seq_length()
    roomy.reset()
    assert roomy.get_seq_length() == 0
    assert torch.equal(roomy.update(*first)[0], first[0])
