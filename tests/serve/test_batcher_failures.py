"""A job that fails takes no other with it, and what was sent already is not sent again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import vtokens
from tests.serve.common import Heard, alone, greedy, job, loaded, prompt, questions, sampled, together
from vtokens.serve.answering import Answering
from vtokens.serve.batcher import Batcher
from vtokens.serve.decoding import decoding
from vtokens.serve.jobs import Began, Failed
from vtokens.serve.rows import Row
from vtokens.serve.steps import Choose


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Any, Any, Any, Batcher]]:
    model, processor = loaded()
    with vtokens.attach(model, "none") as handle, Batcher(model, processor, handle) as batcher:
        yield model, processor, handle, batcher


@contextmanager
def refusing(model: Any, refuses: Any) -> Iterator[list[int]]:
    """Raise in calls of the decoder for which `refuses(rows, positions, call)` gives an error; their rows are noted."""
    calls: list[int] = []

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        rows, length = kwargs["inputs_embeds"].shape[:2]
        calls.append(rows)
        error = refuses(rows, length, len(calls))
        if error is not None:
            raise error

    handle = model.model.language_model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def test_a_prompt_that_the_model_refuses_fails_by_itself(served: Any) -> None:
    """Fewer pictures than its text has room for: transformers says so of the whole batch."""
    model, processor, handle, batcher = served
    good = [prompt(processor, one.question, one.images) for one in questions()[:3]]
    bad = dict(good[0], pixel_values=good[0]["pixel_values"][:0])
    jobs = [job(good[0]), job(bad, "none"), job(good[1], "cls(keep=0.3)"), job(good[2], "vcd")]
    first, failed, *others = together(batcher, jobs)
    assert isinstance(failed.failed, Exception)
    assert len(failed.events) == 1
    for one, heard in zip((jobs[0], *jobs[2:]), (first, *others), strict=True):
        assert list(heard.end.ids) == alone(model, handle, one)
        assert heard.began.rows == 4  # of the batch in which it was asked


def test_a_prompt_that_is_no_tensor_fails_by_itself(served: Any) -> None:
    """Nobody can say whether it could share a batch, and the thread that asks goes on."""
    model, processor, handle, batcher = served
    good = prompt(processor, questions()[0].question, questions()[0].images)
    odd = dict(good, pixel_values="none")
    heard = together(batcher, [job(odd), job(odd), job(good)])
    assert all(isinstance(one.failed, Exception) for one in heard[:2])
    assert list(heard[2].end.ids) == alone(model, handle, job(good))


def test_a_strategy_that_refuses_in_the_pass_fails_by_itself(served: Any) -> None:
    """lqcd asks for another prompt, which nobody gave."""
    model, processor, handle, batcher = served
    inputs = prompt(processor, questions()[0].question, questions()[0].images)
    failed, fine = together(batcher, [job(inputs, "lqcd"), job(inputs, "todre(keep=0.3)")])
    assert isinstance(failed.failed, ValueError)
    assert "prompt" in str(failed.failed)
    assert list(fine.end.ids) == alone(model, handle, job(inputs, "todre(keep=0.3)"))


def test_a_batch_without_room_runs_row_by_row(served: Any) -> None:
    """Out of memory for more than one row, and for one that is long: of all, that one is told."""
    model, processor, handle, batcher = served
    inputs = [prompt(processor, one.question, one.images) for one in questions()[:3]]
    inputs[1] = prompt(processor, questions()[1].question + " is it so?" * 20, questions()[1].images)
    longest = inputs[1]["input_ids"].shape[1]

    def no_room(rows: int, length: int, call: int) -> Exception | None:
        return torch.OutOfMemoryError("no room") if rows > 1 or length >= longest else None

    jobs = [job(one) for one in inputs]
    with refusing(model, no_room) as calls:
        found = together(batcher, jobs)
    assert calls[:2] == [3, 1]
    assert isinstance(found[1].events[-1], Failed)
    assert isinstance(found[1].failed, torch.OutOfMemoryError)
    for number in (0, 2):
        assert list(found[number].end.ids) == alone(model, handle, jobs[number])


@pytest.mark.parametrize("call", [2, 4])
def test_an_answer_goes_on_where_it_was_when_its_batch_failed(served: Any, call: int) -> None:
    """Greedy and drawn tokens, with logprobs: nothing is sent twice, and the end is that of an unbroken answer."""
    model, processor, handle, batcher = served
    inputs = [prompt(processor, one.question, one.images) for one in questions()[:3]]
    jobs = [
        job(inputs[0], "none", greedy(6, min_new_tokens=6, repetition_penalty=1.4), logprobs=1),
        job(inputs[1], "cls(keep=0.5)", sampled(7, min_new_tokens=7, temperature=3.0), seed=1),
        job(inputs[2], "none", greedy(2, min_new_tokens=2)),
    ]

    def once(rows: int, length: int, number: int) -> Exception | None:
        return RuntimeError("a step failed") if number == call else None

    with refusing(model, once) as calls:
        found = together(batcher, jobs)
    assert 1 in calls[call:]
    for one, heard in zip(jobs, found, strict=True):
        expected = alone(model, handle, one)
        assert list(heard.end.ids) == expected
        assert [token.id for token in heard.tokens] == expected
        assert heard.text == processor.tokenizer.decode(expected, skip_special_tokens=True)
        assert sum(isinstance(event, Began) for event in heard.events) == 1
    assert all(token.logprob is not None and len(token.top) == 1 for token in found[0].tokens)


def test_a_failure_is_told_after_what_was_sent(served: Any) -> None:
    model, processor, _, batcher = served
    inputs = prompt(processor, questions()[0].question, questions()[0].images)

    def late(rows: int, length: int, number: int) -> Exception | None:
        return RuntimeError("from then on") if number > 2 else None

    with refusing(model, late):
        (heard,) = together(batcher, [job(inputs, "none", greedy(9, min_new_tokens=9))])
    assert len(heard.tokens) == 2
    assert str(heard.failed) == "from then on"
    assert together(batcher, [job(inputs)])[0].end.reason == "stop"


def test_tokens_of_a_failed_run_are_written_again_whatever_the_scores_say() -> None:
    """In coarser numbers a row by itself may prefer another token than in its batch; what was sent stays."""
    model, processor = loaded()
    heard, one = Heard(), job(prompt(processor, "Is it red?"), "none", sampled(4), seed=1)
    how = decoding(model, one.inputs["input_ids"], one.settings)
    row = Row(Answering(one, how, (), heard, lambda: None), processor.tokenizer)
    row.ids = [7, 9]
    row.begin(torch.device("cpu"))
    choose, ids, found = Choose([row]), one.inputs["input_ids"], []
    for _ in range(3):
        scores = torch.zeros(1, model.config.get_text_config().vocab_size).index_fill_(1, torch.tensor([20]), 50.0)
        found.append(int(choose(ids, scores).argmax()))
        row.push(found[-1], None, ())
        ids = torch.cat([ids, torch.tensor([found[-1:]])], 1)
    assert found == [7, 9, 20]
    assert [token.id for token in heard.tokens] == [20]
