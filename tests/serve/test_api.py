"""OpenAI's own client against a genuine server: answers are those of `generate`, whole and streamed."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import torch

from tests.serve.common import held, questions
from tests.serve.running import run as wait_for
from tests.serve.served import asked, client, metrics, said, serving, user
from vtokens.serve.settings import Settings

NAME = "scenes-llava"
PRESETS = {"fast": "cls(keep=0.25)", "layers": "fastv(keep=0.5, layer=2)", "plain": "none"}


@pytest.fixture(scope="module")
def free() -> Iterator[tuple[str, Any]]:
    """A server that lets requests name strategies."""
    with serving(Settings(presets=PRESETS, trust=True, most=4)) as there:
        yield there


def ask(address: str, one: Any, **more: Any) -> Any:
    given = {"model": NAME, "messages": [user(one.question, *one.images)], "temperature": 0, **more}
    return client(address).chat.completions.create(**given)


def pieced(stream: Any) -> tuple[str, Any]:
    """The text of a stream, and its last chunk."""
    text, last = "", None
    for chunk in stream:
        last = chunk
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    return text, last


def test_pictures_are_opened_and_prompts_made_while_the_model_is_busy(free: Any) -> None:
    """All that comes before the model is done by then: requests wait for their turn, and for nothing else."""
    address, app = free
    batcher, one = app.state.batcher, questions()[0]
    with ThreadPoolExecutor(3) as pool:
        with held(batcher):
            waiting = [pool.submit(ask, address, one, max_tokens=2) for _ in range(3)]
            until = time.monotonic() + 60
            while batcher.queued < 3:
                assert time.monotonic() < until
                time.sleep(0.01)
        assert len({each.result(60).choices[0].message.content for each in waiting}) == 1


@pytest.mark.parametrize("strategy", ["none", "cls(keep=0.25)", "fastv(keep=0.5, layer=2)", "vcd"])
def test_answers_are_those_of_generate_whole_and_streamed(free: Any, strategy: str) -> None:
    address, app = free
    for one in questions()[:3]:
        more = {"extra_body": {"vtokens": {"strategy": strategy}}}
        ids, text, report = said(app, asked(one.question), one.images, strategy)
        whole = ask(address, one, **more)
        assert whole.choices[0].message.content == text
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage.completion_tokens == len(ids)
        sample = report.samples[0]
        told = whole.vtokens
        assert told["image_tokens"] == 144
        assert told["kept"] == round(sample.average_tokens)
        positions = [len(layer) for layer in sample.positions]
        assert whole.usage.prompt_tokens == round(sum(positions) / len(positions))
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + len(ids)
        assert told["flops_saved"] == pytest.approx(1 - report.flops / report.flops_full, abs=1e-4)
        streamed, last = pieced(ask(address, one, stream=True, stream_options={"include_usage": True}, **more))
        assert streamed == text
        assert (last.choices, last.usage) == ([], whole.usage)
        assert last.vtokens == told


def test_streams_begin_with_the_role_and_end_with_done(free: Any) -> None:
    address, _ = free
    one = questions()[0]
    body = {"model": f"{NAME}:fast", "messages": [user(one.question, *one.images)], "stream": True}
    sent = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(sent) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert (answer.headers["x-vtokens-strategy"], answer.headers["x-vtokens-kept"]) == (PRESETS["fast"], "36")
        events = [part for part in answer.read().decode().split("\n\n") if part]
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event[6:]) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["vtokens"]["kept"] == 36
    assert not any("usage" in chunk for chunk in chunks)


def test_presets_and_what_else_names_a_strategy(free: Any) -> None:
    address, app = free
    one = questions()[1]
    models = client(address).models.list().data
    assert [model.id for model in models] == [NAME, *(f"{NAME}:{name}" for name in PRESETS)]
    assert [model.vtokens["strategy"] for model in models] == ["none", *PRESETS.values()]
    assert models[0].vtokens["free"] is True
    assert {"cls", "fastv"} <= set(models[0].vtokens["strategies"])
    fast = said(app, asked(one.question), one.images, PRESETS["fast"])[1]
    ways: list[dict[str, Any]] = [
        {"model": f"{NAME}:fast"},
        {"extra_body": {"vtokens": {"strategy": "fast"}}},
        {"extra_body": {"vtokens": {"strategy": "cls", "keep": 0.25}}},
        {"extra_body": {"vtokens": {"strategy": "cls", "keep": 36}}},
    ]
    for way in ways:
        answer = ask(address, one, **way)
        assert (answer.choices[0].message.content, answer.vtokens["kept"]) == (fast, 36)


def test_several_pictures_and_turns(free: Any) -> None:
    address, app = free
    one, two = questions()[2:4]
    turns = [
        *asked("how many objects are there?", 2),
        {"role": "assistant", "content": [{"type": "text", "text": "two"}]},
        *asked(two.question, 0),
    ]
    images = [one.images[0], two.images[0]]
    _, text, _ = said(app, turns, images, "cls(keep=0.25)")
    messages: list[Any] = [
        user("how many objects are there?", *images),
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": two.question},
    ]
    answer = ask(address, one, messages=messages, model=f"{NAME}:fast")
    assert answer.choices[0].message.content == text
    assert (answer.vtokens["image_tokens"], answer.vtokens["kept"]) == (288, 72)
    plain = ask(address, one, messages=[{"role": "user", "content": two.question}])
    assert plain.choices[0].message.content == said(app, asked(two.question, 0), [])[1]
    assert plain.vtokens["image_tokens"] == 0


def test_logprobs_are_the_models(free: Any) -> None:
    address, app = free
    one = questions()[0]
    answer = ask(address, one, logprobs=True, top_logprobs=3)
    ids, _, _ = said(app, asked(one.question), one.images)
    served = app.state.served
    content = answer.choices[0].logprobs.content
    assert [token.token for token in content] == [app.state.batcher.spelled(id)[0] for id in ids[:-1]]

    def scores() -> Any:
        out = served.model.generate(
            **_inputs(served, one), max_new_tokens=40, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        return torch.stack(out.logits)[:, 0].log_softmax(-1)

    expected = app.state.batcher.alone(scores).result(60)
    for place, token in enumerate(content):
        assert token.logprob == pytest.approx(float(expected[place, ids[place]]), abs=1e-4)
        best = expected[place].topk(3)
        assert [entry.logprob for entry in token.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert bytes(token.bytes).decode() == token.token
    without = ask(address, one)
    assert without.choices[0].logprobs is None
    streamed = [
        entry
        for chunk in ask(address, one, logprobs=True, top_logprobs=3, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content
    ]
    assert [entry.logprob for entry in streamed] == pytest.approx([entry.logprob for entry in content], abs=1e-4)


def _inputs(served: Any, one: Any) -> Any:
    from vtokens.core.prompts import encode_prompts, question_prompt

    return encode_prompts(served.processor, [question_prompt(served.processor, one.question)], [one.images])


def test_stops_lengths_seeds_and_choices(free: Any) -> None:
    address, app = free
    one = questions()[0]
    messages = [user("describe the scene", *one.images)]
    whole = ask(address, one, messages=messages)
    text = whole.choices[0].message.content
    words = text.split()
    assert len(words) > 4
    stopped = ask(address, one, messages=messages, stop=["never written", words[3]]).choices[0]
    assert stopped.message.content == text[: text.index(words[3])]
    assert stopped.finish_reason == "stop"
    for name in ("max_tokens", "max_completion_tokens"):
        short = ask(address, one, messages=messages, **{name: 2})
        assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 2)
    drawn = {"messages": [{"role": "user", "content": "describe the scene"}], "temperature": 2, "seed": 3}
    first = ask(address, one, n=3, **drawn)
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in first.choices]
    turns = asked("describe the scene", 0)
    assert texts == [said(app, turns, [], seed=3 + i, do_sample=True, temperature=2.0)[1] for i in range(3)]
    assert len(set(texts)) == 3
    written = ["", "", ""]
    for chunk in ask(address, one, n=3, stream=True, **drawn):
        for choice in chunk.choices:
            written[choice.index] += choice.delta.content or ""
    assert written == texts


def test_the_async_client_and_many_at_once(free: Any) -> None:
    address, app = free
    strategies = ["none", *PRESETS.values(), "random(keep=0.5, seed=3)"]
    some = questions()[:8]
    expected = [said(app, asked(one.question), one.images, strategies[i % 5])[1] for i, one in enumerate(some)]

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as there:

            async def one(i: int) -> str:
                given: dict[str, Any] = {
                    "model": NAME, "messages": [user(some[i].question, *some[i].images)], "temperature": 0,
                    "extra_body": {"vtokens": {"strategy": strategies[i % 5]}},
                }  # fmt: skip
                if i % 2:
                    return (await there.chat.completions.create(**given)).choices[0].message.content or ""
                stream = await there.chat.completions.create(**given, stream=True)
                return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

            return await asyncio.gather(*map(one, range(len(some))))

    assert wait_for(run()) == expected


WRONG: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"vtokens": {"strategy": "cla"}}, 400, "vtokens.strategy", "Did you mean 'cls'"),
    ({"vtokens": {"strategy": "cls(kep=0.2)"}}, 400, "vtokens.strategy", "'keep'"),
    ({"vtokens": {"strategy": "cls", "keep": 0}}, 400, "vtokens.keep", "keeps nothing"),
    ({"vtokens": {"keep": 0.1}}, 400, "vtokens.keep", "no strategy to take it"),
    ({"vtokens": {"stategy": "cls"}}, 400, "vtokens.stategy", "Did you mean 'strategy'"),
    ({"vtokens": {"filter": {"action": "redcat"}}}, 400, "vtokens.filter.action", "Did you mean 'redact'"),
    ({"model": "scenes-lava"}, 404, "model", "Did you mean 'scenes-llava'"),
    ({"model": f"{NAME}:fast", "vtokens": {"strategy": "none"}}, 400, "vtokens.strategy", "give one"),
    ({"temprature": 1}, 400, "temprature", "Did you mean 'temperature'"),
    ({"metadata": {"a": "b"}}, 400, "metadata", "not supported"),
    ({"logit_bias": {"30000": 1}}, 400, "logit_bias", "tokens 0 to 70"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format.type", "'text'"),
    ({"n": 99}, 400, "n", "less than or equal to 8"),
    ({"top_logprobs": 2}, 400, "top_logprobs", "logprobs=true"),
    ({"max_tokens": 100_000}, 400, "max_tokens", "100000"),
    ({"max_tokens": 4000}, 400, "messages", "context holds 1,024"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, 400, "max_tokens", "differ"),
    ({"messages": [{"role": "user", "content": "an <image> here"}]}, 400, "messages[0].content", "'<image>'"),
    ({"messages": [{"role": "user", "content": "is \ud800"}]}, 400, None, "surrogate"),
    ({"messages": [{"role": "usr", "content": "hi"}]}, 400, "messages[0].role", "Did you mean 'user'"),
    ({"messages": [{"role": "assistant", "content": "hi"}]}, 400, "messages", "'user' or 'tool'"),
    ({"tools": [{"type": "function", "function": {"name": "look"}}]}, 400, "tools", "knows no tools"),
]


@pytest.mark.parametrize(("wrong", "status", "param", "says"), WRONG, ids=[next(iter(case[0])) for case in WRONG])
def test_what_is_wrong_is_told_in_openais_form(free: Any, wrong: Any, status: int, param: Any, says: str) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": "is there a red circle?"}], **wrong}
    sent = urllib.request.Request(
        f"{free[0]}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(sent)
    error = json.loads(caught.value.read())["error"]
    assert (caught.value.code, error["param"]) == (status, param)
    assert says in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert caught.value.headers["x-vtokens-refused"] == error["code"]


def test_the_client_raises_its_own_errors(free: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean"):
        ask(free[0], questions()[0], model="scenes-lava")
    with pytest.raises(openai.BadRequestError, match="Did you mean 'cls'"):
        ask(free[0], questions()[0], extra_body={"vtokens": {"strategy": "clss"}})


def test_metrics_add_up_to_the_responses(free: Any) -> None:
    address, _ = free
    before, one = metrics(address), questions()[0]
    answers = [ask(address, one, model=f"{NAME}:fast"), ask(address, one), ask(address, one, n=2)]
    list(ask(address, one, stream=True))
    for _ in range(2):
        with pytest.raises(openai.NotFoundError):
            ask(address, one, model="nobody")
    after = metrics(address)

    def grown(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    chats = "vtokens_http_responses_total{route=/v1/chat/completions,status="
    assert (grown(f"{chats}200}}"), grown(f"{chats}404}}")) == (4, 2)
    assert grown("vtokens_refusals_total{reason=model_not_found}") == 2
    assert grown("vtokens_answers_total{finish_reason=stop,strategy=cls}") == 1
    assert grown("vtokens_answers_total{finish_reason=stop,strategy=none}") == 4
    assert grown("vtokens_image_tokens_seen_total{strategy=cls}") == 144
    assert grown("vtokens_image_tokens_kept_total{strategy=cls}") == 36
    assert grown("vtokens_image_tokens_kept_total{strategy=none}") == 3 * 144
    whole = sum(answer.usage.prompt_tokens for answer in answers) + answers[1].usage.prompt_tokens
    assert grown("vtokens_prompt_tokens_total") == whole
    assert grown("vtokens_request_seconds_count") == 6
    assert grown("vtokens_first_token_seconds_count") == 4
    assert grown("vtokens_batch_rows_count") == grown("vtokens_queue_seconds_count") == 5
