"""Tools as transformers has them: the template is told of them, and calls come out of what the model writes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from transformers.cli.serving.utils import parse_assistant_message

import vtokens
from tests.serve.common import questions
from tests.serve.served import client, said, serving, user
from vtokens.serve.parsed import Parsed
from vtokens.serve.settings import Settings

CALLED = {
    "defaults": {"role": "assistant"},
    "start_anchor": "ASSISTANT:",
    "fields": {
        "tool_calls": {
            "open_pattern": r"(?P<name>red|green|blue|yellow|purple|orange|gray|grey|white|black) ",
            "close_pattern": r" ?,| ?<eos>|$",
            "repeats": True,
            "content": "text",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": {"shape": "{content}"}}},
        },
        "content": {"close": "<eos>", "content": "text"},
    },
}
"""Reads the embedded model's descriptions, such as "red circle, blue square", as calls of tools named by colours."""
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "red", "parameters": {"type": "object", "properties": {}}}}
]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """The embedded model with a template that tells of tools, and a tokenizer that says how calls are written."""
    folder: Path = tmp_path_factory.mktemp("model")
    model, processor = vtokens.load("scenes-llava")
    model.save_pretrained(folder)
    told = "{% if tools %}{% for tool in tools %}{{ tool.function.name }} {% endfor %}{% endif %}"
    processor.chat_template = told + processor.chat_template
    processor.tokenizer.response_template = CALLED
    processor.save_pretrained(folder)
    with serving(Settings(model=str(folder), name="caller", page=False)) as found:
        yield found


def ask(address: str, one: Any, **more: Any) -> Any:
    given = {"messages": [user("describe the scene", *one.images)], "temperature": 0, **more}
    return client(address).chat.completions.create(model="caller", **given)


def test_calls_are_read_whole_and_streamed_as_transformers_reads_them(there: Any) -> None:
    address, app = there
    served = app.state.served
    assert served.processor.tokenizer.response_template == CALLED
    read = 0
    for one in questions()[:3]:
        answer = ask(address, one, tools=TOOLS).choices[0]
        calls = answer.message.tool_calls or []
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe the scene"}]}]
        from vtokens.core.prompts import chat_text, encode_prompts

        text = chat_text(served.processor, turns, tools=TOOLS)
        assert text.startswith("red ")
        inputs = encode_prompts(served.processor, [text], [one.images])

        def run(inputs: Any = inputs) -> Any:
            rows = served.model.generate(**inputs, max_new_tokens=40, do_sample=False)
            return rows[0, inputs["input_ids"].shape[1] :]

        ids = app.state.batcher.alone(run).result(60)
        # transformers 5.19 is not told; the tools have no parameters that would be read by it.
        more: Any = {"tools": TOOLS} if "tools" in inspect.signature(parse_assistant_message).parameters else {}
        content, _, expected = parse_assistant_message(served.processor, served.model, ids, inputs["input_ids"], **more)
        assert [(c.function.name, c.function.arguments) for c in calls] == [
            (c.name, c.arguments) for c in expected or []
        ]
        # Of several stretches of text transformers' whole message has the last; ours is what was streamed.
        assert (answer.message.content or "").strip().endswith(content.strip())
        assert answer.finish_reason == ("tool_calls" if expected else "stop")
        assert len({call.id for call in calls}) == len(calls)
        read += len(calls)
        streamed: list[Any] = []
        for chunk in ask(address, one, tools=TOOLS, stream=True):
            streamed += chunk.choices[0].delta.tool_calls or []
            last = chunk.choices[0].finish_reason
        pieces = [(c.index, c.id, c.function.name, c.function.arguments) for c in streamed]
        assert [piece[2:] for piece in pieces] == [(c.function.name, c.function.arguments) for c in calls]
        assert [piece[0] for piece in pieces] == list(range(len(calls)))
        assert last == answer.finish_reason
    assert read


def test_results_of_tools_go_back(there: Any) -> None:
    address, app = there
    one = questions()[0]
    call = {"id": "a", "type": "function", "function": {"name": "red", "arguments": json.dumps({"shape": "ring"})}}
    messages: list[Any] = [
        user("describe the scene", *one.images),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "two"},
    ]
    assert ask(address, one, messages=messages, tools=TOOLS).choices[0].message is not None
    call["function"]["arguments"] = "{not json"  # type: ignore[index]
    with pytest.raises(openai.BadRequestError, match="no JSON"):
        ask(address, one, messages=messages)
    without = ask(address, one, tools=TOOLS, tool_choice="none")
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe the scene"}]}]
    assert without.usage.completion_tokens == len(said(app, turns, one.images)[0])


def test_a_stream_that_fails_says_so_in_its_last_event(there: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, text: str) -> Any:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(Parsed, "feed", fails)
    with pytest.raises(openai.APIError, match=r"the server failed \(RuntimeError\)"):
        list(ask(there[0], questions()[0], stream=True))


def test_a_call_that_cannot_be_read_is_text() -> None:
    class Broken:
        def feed(self, text: str) -> list[Any]:
            if "!" in text:
                raise ValueError("no JSON")
            return []

    reader = Parsed(Broken())
    assert (list(reader.feed("<call>")), "".join(reader.feed("{!")), "".join(reader.feed("x"))) == ([], "<call>{!", "x")
