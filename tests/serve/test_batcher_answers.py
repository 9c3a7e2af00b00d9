"""What is told of an answer while it is written: pieces, probabilities, and why it ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import vtokens
from tests.limits import close_pass
from tests.serve.common import Heard, alone, answers, greedy, held, job, loaded, prompt, questions, sampled
from vtokens.serve.batcher import Batcher
from vtokens.serve.jobs import Began, End, Text

LONG = {"min_new_tokens": 400}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Any, Any, Any, Batcher]]:
    model, processor = loaded()
    with vtokens.attach(model, "none") as handle, Batcher(model, processor, handle) as batcher:
        yield model, processor, handle, batcher


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    return prompt(loaded()[1], questions()[0].question, questions()[0].images)


def test_stop_strings_end_their_own_row(served: Any, inputs: dict[str, Any]) -> None:
    """Across the borders of tokens; the other row of the batch writes them and goes on."""
    model, processor, handle, batcher = served
    settings = {"min_new_tokens": 10, "temperature": 3.0}
    plain = job(inputs, "none", sampled(10, **settings), seed=5)
    ids = alone(model, handle, plain)
    words = [processor.tokenizer.decode(ids[:number], skip_special_tokens=True) for number in range(len(ids) + 1)]
    whole = words[-1]
    border = len(words[4])
    stop = whole[border - 2 : border + 2]  # the end of a token and the beginning of the next
    first = whole.find(stop)
    stopped = job(inputs, "none", sampled(10, stop_strings=["never", stop], **settings), seed=5, logprobs=0)
    late = job(inputs, "none", sampled(10, stop_strings=whole[-2:] + "?", **settings), seed=5)
    got, other, kept = answers(batcher, [stopped, plain, late])
    assert got.text == whole[:first]
    assert got.end.reason == "stop"
    assert got.end.ids == tuple(ids[: got.end.tokens])
    assert got.end.tokens <= 6
    assert "".join(token.text for token in got.tokens).startswith(got.text)
    assert len(got.tokens) < got.end.tokens
    assert other.text == kept.text == whole
    assert other.end.reason == kept.end.reason == "length"


def test_pieces_come_one_by_one_and_short_rows_end_first(served: Any, inputs: dict[str, Any]) -> None:
    _, _, _, batcher = served
    order: list[tuple[str, Any]] = []
    short = Heard(lambda event: order.append(("short", event)))
    long = Heard(lambda event: order.append(("long", event)))
    with held(batcher):
        first = batcher.submit(job(inputs, "none", greedy(12, min_new_tokens=12)), long)
        second = batcher.submit(job(inputs, "none", greedy(3, min_new_tokens=3)), short)
    assert first.wait(60)
    assert second.wait(60)
    assert first.done
    assert not first.cut
    assert [type(event) for event in short.events] == [Began, Text, Text, Text, End]
    assert [type(event) for event in long.events] == [Began, *[Text] * 12, End]
    at = next(place for place, (who, event) in enumerate(order) if who == "short" and isinstance(event, End))
    assert sum(who == "long" and isinstance(event, Text) for who, event in order[at:]) >= 9
    assert short.end.reason == long.end.reason == "length"
    assert long.began.rows == 2
    assert 0 < long.began.waited < long.end.seconds


@pytest.mark.parametrize("strategy", ["none", "cls(keep=0.25)", "fastv(keep=0.4, layer=2)"])
def test_logprobs_are_those_of_a_pass_over_the_whole_answer(served: Any, inputs: dict[str, Any], strategy: str) -> None:
    """Of the distribution that the model gave, whatever is done to it before a token is drawn."""
    model, _, handle, batcher = served
    settings = sampled(6, min_new_tokens=6, temperature=2.0, top_k=5, repetition_penalty=1.7)
    jobs = [job(inputs, strategy, settings, seed=3, logprobs=count) for count in (4, 0)]
    jobs += [job(inputs, "todre(keep=0.3)", settings, seed=4)]
    most, none, unasked = answers(batcher, jobs)
    ids = most.end.ids
    fed = {**inputs, "input_ids": torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)}
    fed["attention_mask"] = torch.ones_like(fed["input_ids"])
    length = inputs["input_ids"].shape[1]
    with torch.no_grad(), handle.using(strategy):
        logits = model(**fed, logits_to_keep=len(ids) + 1).logits[0, :-1].double()
    assert len(logits) == len(ids)
    assert fed["input_ids"].shape[1] == length + 6
    expected = logits - logits.exp().sum(-1, keepdim=True).log()
    own = torch.stack([row[token] for row, token in zip(expected, ids, strict=True)])
    assert [token.id for token in most.tokens] == list(ids)
    size = logits.abs().max().item()
    close_pass(torch.tensor([token.logprob for token in most.tokens]), own.float(), size=size)
    values, places = expected.topk(4)
    close_pass(torch.tensor([[value for _, value in token.top] for token in most.tokens]), values.float(), size=size)
    assert [[place for place, _ in token.top] for token in most.tokens] == places.tolist()
    assert [(token.id, token.top) for token in none.tokens] == [(token, ()) for token in ids]
    close_pass(torch.tensor([token.logprob for token in none.tokens]), own.float(), size=size)
    assert [(token.logprob, token.top) for token in unasked.tokens] == [(None, ())] * 6


def test_a_cancelled_row_ends_within_a_step_and_the_others_go_on(served: Any, inputs: dict[str, Any]) -> None:
    _, _, _, batcher = served
    texts, one = 0, []

    def after_three(event: Any) -> None:
        nonlocal texts
        texts += isinstance(event, Text)
        if texts == 3:
            one[0].cancel()
            one[0].cancel()

    gone, stays = Heard(after_three), Heard()
    with held(batcher):
        one.append(batcher.submit(job(inputs, "none", greedy(400, **LONG)), gone))
        other = batcher.submit(job(inputs, "cls(keep=0.2)", greedy(8, min_new_tokens=8)), stays)
    assert one[0].wait(60)
    assert other.wait(60)
    assert gone.end.reason == "cancelled"
    assert gone.end.tokens <= 4
    assert [type(event) for event in gone.events].count(Text) == 3
    assert stays.end.tokens == 8
    assert stays.end.reason == "length"
    # Nobody is left, so that the batch was over long before 400 steps: what comes next runs at once.
    assert answers(batcher, [job(inputs)])[0].end.seconds < 60


def test_a_receiver_that_raises_loses_its_own_answer_alone(served: Any, inputs: dict[str, Any], caplog: Any) -> None:
    _, _, _, batcher = served

    def broken(event: Any) -> None:
        raise ValueError("nobody listens")

    fine = Heard()
    with held(batcher):
        one = batcher.submit(job(inputs, "none", greedy(400, **LONG)), broken)
        other = batcher.submit(job(inputs, "none", greedy(5, min_new_tokens=5)), fine)
    assert one.wait(60)
    assert other.wait(60)
    assert fine.end.tokens == 5
    assert "its request is cancelled" in caplog.text


def test_deadlines_count_from_submission(served: Any, inputs: dict[str, Any]) -> None:
    """One that passes in the queue ends without having run, while the model is busy; a later one cuts the text."""
    _, _, _, batcher = served
    waiting, running = Heard(), Heard()
    with held(batcher):
        late = batcher.submit(job(inputs, "none", deadline=0.02), waiting)
        assert late.wait(60)
        assert waiting.end.reason == "deadline"
        assert waiting.end.did is None
        assert len(waiting.events) == 1
        assert 0.02 <= waiting.end.seconds < 30
        gone = Heard()
        cancelled = batcher.submit(job(inputs), gone)
        cancelled.cancel()
        assert cancelled.wait(60)
        assert gone.end.reason == "cancelled"
        assert gone.end.ids == ()
    begun = threading.Event()
    running = Heard(lambda event: begun.set())
    one = batcher.submit(job(inputs, "none", greedy(2000, min_new_tokens=2000), deadline=2.0), running)
    assert one.wait(60)
    assert running.end.reason == "deadline"
    if begun.is_set() and running.end.tokens:  # a machine may be too busy for a prefill in that time
        assert 0 < running.end.tokens < 2000
        assert running.end.did is not None
    assert running.end.seconds >= 2.0
