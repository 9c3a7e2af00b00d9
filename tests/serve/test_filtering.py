"""The filter behind the server: verdicts are those of `HallucinationFilter`, and certificates only where it has one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.serve.common import questions
from tests.serve.served import client, metrics, serving, user
from vtokens.serve.model import serve_model
from vtokens.serve.settings import Settings

NAME = "scenes-llava"
ASK = "describe the scene"


@pytest.fixture(scope="module")
def there() -> Iterator[tuple[str, Any]]:
    with serving(Settings(presets={"fast": "cls(keep=0.1)"}, page=False)) as found:
        yield found


def ask(address: str, image: Any, filtered: dict[str, Any], **more: Any) -> Any:
    body = {"vtokens": {"filter": filtered}}
    given = {"model": NAME, "messages": [user(ASK, image)], "temperature": 0, "extra_body": body, **more}
    return client(address).chat.completions.create(**given)


def outcome(app: Any, image: Any, filtered: dict[str, Any], strategy: str = "none") -> Any:
    served = app.state.served

    def run() -> Any:
        with served.handle.using(strategy):
            chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ASK}]}]
            return served.hf.generate(image, chat, max_new_tokens=64, do_sample=False, **filtered)

    return app.state.batcher.alone(run).result(60)


@pytest.mark.parametrize("action", ["flag", "redact", "regenerate", "abstain"])
def test_each_action_does_what_the_filter_does(there: Any, action: str) -> None:
    address, app = there
    touched = 0
    cases = [(questions()[4], NAME, "none"), (questions()[6], f"{NAME}:fast", "cls(keep=0.1)")]
    for one, model, strategy in cases if action in ("flag", "redact") else cases[1:]:  # the others take longer
        filtered = {"action": action, "threshold": 0.02}
        expected = outcome(app, one.images[0], filtered, strategy)
        before = metrics(address)
        answer = ask(address, one.images[0], filtered, model=model)
        message, verdict = answer.choices[0].message, answer.vtokens["filter"]
        assert message.content == expected.text
        assert message.vtokens == verdict
        assert (verdict["action"], verdict["threshold"], verdict["calibrated"]) == (action, 0.02, True)
        assert "guarantee" not in verdict
        marks = verdict["marks"]
        if action == "flag":
            found = [(m.start, m.end, m.text, m.p) for m in expected.report.flagged]
            assert [(m["start"], m["end"], m["text"]) for m in marks] == [one[:3] for one in found]
            assert [m["probability"] for m in marks] == pytest.approx([one[3] for one in found], abs=1e-5)
            assert all(message.content[m["start"] : m["end"]] == m["text"] for m in marks)
        else:
            assert [m["text"] for m in marks] == [edit.before for edit in expected.edits]
            assert {m["what"] for m in marks} == {edit.what for edit in expected.edits}
            kept = [edit.after for edit in expected.edits]
            assert [message.content[m["start"] : m["end"]].strip() for m in marks] == kept
        flags = f"vtokens_filter_flags_total{{action={action}}}"
        assert metrics(address)[flags] - before.get(flags, 0) == len(marks)
        assert answer.vtokens["kept"] == (14 if model != NAME else 144)
        touched += len(marks)
        if action != "abstain":  # a stream cannot take back what it has shown
            chunks = list(ask(address, one.images[0], filtered, model=model, stream=True))
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
            assert chunks[-1].vtokens["filter"] == verdict
    assert touched  # or nothing was compared


def test_flags_are_in_a_header_for_gateways(there: Any) -> None:
    address, app = there
    one = questions()[4]
    filtered = {"action": "flag", "threshold": 0.0}
    raw = client(address).chat.completions.with_raw_response.create(
        model=NAME, messages=[user(ASK, one.images[0])], extra_body={"vtokens": {"filter": filtered}}, temperature=0
    )
    count = len(outcome(app, one.images[0], filtered).report.flagged)
    assert count
    assert raw.headers["x-vtokens-flags"] == str(count)


def test_a_certificate_is_for_the_calibrated_setting_alone(there: Any) -> None:
    address, app = there
    image = questions()[4].images[0]
    risk = app.state.served.hf.certificate().risk.alpha
    filtered = {"action": "redact", "risk": risk}
    told = ask(address, image, filtered).vtokens["filter"]
    expected = outcome(app, image, filtered)
    assert told["guarantee"] == " ".join(str(expected.certificate).split())
    known = expected.certificate.threshold
    assert told.get("threshold") == (known if math.isfinite(known) else None)
    with pytest.raises(openai.BadRequestError, match=r"strategy 'cls.* against 'none'"):
        ask(address, image, filtered, model=f"{NAME}:fast")
    with pytest.raises(openai.BadRequestError, match="decoding"):
        ask(address, image, filtered, temperature=1)


@pytest.mark.parametrize(
    ("more", "says"),
    [({"n": 2}, "n is not possible"), ({"stop": "a"}, "stop is not"), ({"logprobs": True}, "logprobs is not")],
)
def test_what_the_filter_cannot_do_is_refused(there: Any, more: dict[str, Any], says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        ask(there[0], questions()[4].images[0], {"action": "flag"}, **more)


def test_nearly_no_temperature_is_greedy(there: Any) -> None:
    image = questions()[4].images[0]
    found = [ask(there[0], image, {"action": "flag"}, temperature=cold).choices[0].message for cold in (0, 1e-40)]
    assert found[0] == found[1]


def test_a_text_alone_is_told_from_the_filtered_answer_before_it(there: Any) -> None:
    """The filter writes in a thread of its own, whose pass was taken for that of the text."""
    image, asked = questions()[4].images[0], client(there[0]).chat.completions
    asked.create(model=NAME, messages=[user(ASK, image)], max_tokens=1)
    ask(there[0], image, {"action": "flag", "threshold": 0.5})
    text = asked.create(model=NAME, messages=[{"role": "user", "content": "is it red?"}])
    assert (text.vtokens["image_tokens"], text.vtokens["kept"], text.vtokens["flops_saved"]) == (0, 0, 0)
    assert text.usage.prompt_tokens < 20


def test_a_server_filters_every_answer_about_pictures() -> None:
    with serving(Settings(action="redact", threshold=0.02, page=False)) as (address, app):
        image = questions()[4].images[0]
        answer = client(address).chat.completions.create(model=NAME, messages=[user(ASK, image)], temperature=0)
        assert answer.choices[0].message.content == outcome(app, image, {"action": "redact", "threshold": 0.02}).text
        assert answer.vtokens["filter"]["action"] == "redact"
        text = client(address).chat.completions.create(model=NAME, messages=[{"role": "user", "content": ASK}])
        assert "filter" not in text.vtokens


def test_tools_and_the_like_stay_for_chats_without_pictures() -> None:
    """There is nothing to judge in them, whatever every answer about pictures is asked for."""
    with serving(Settings(action="flag", threshold=0.5)) as (address, _):
        chats = client(address).chat.completions
        given: Any = {"model": "scenes-llava", "temperature": 0, "logprobs": True, "stop": ["."], "n": 2}
        answer = chats.create(messages=[user("is there a red circle?")], **given)
        assert len(answer.choices) == 2
        assert answer.choices[0].logprobs.content
        one = questions()[0]
        with pytest.raises(openai.BadRequestError, match="not possible beside the filter"):
            chats.create(messages=[user(one.question, *one.images)], **given)


def test_what_strategies_refuse_in_the_pass_names_its_field() -> None:
    with serving(Settings(trust=True)) as (address, _):
        chats, one = client(address).chat.completions, questions()[0]
        for asked in ({"strategy": "cls", "keep": 10_000}, {"strategy": "cls(keep=10000)"}):
            with pytest.raises(openai.BadRequestError, match=r"10000|10,000") as caught:
                chats.create(
                    model="scenes-llava", messages=[user(one.question, *one.images)], extra_body={"vtokens": asked}
                )
            assert caught.value.param == ("vtokens.keep" if "keep" in asked else "vtokens.strategy")


@pytest.mark.parametrize(
    ("presets", "wanted", "says"),
    [
        ({"best": "auto"}, {"action": "flag"}, "scenes-llava:best: every answer is to be filtered.*'census' lets"),
        (
            {"fast": "cls(keep=0.1)"},
            {"action": "redact"},
            "scenes-llava:fast: .*fitted under other conditions: strategy",
        ),
    ],
)
def test_a_server_that_filters_every_answer_begins_only_where_it_can(presets: Any, wanted: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        serve_model(Settings(presets=presets, page=False, **wanted))
