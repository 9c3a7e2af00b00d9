"""Strategies that a request writes: whatever names a file or a model of the server is refused."""

from __future__ import annotations

import dataclasses

import pytest

import vtokens
from vtokens.serve.asked import ChatRequest
from vtokens.serve.errors import Refused
from vtokens.serve.programs import Programs
from vtokens.serve.settings import Settings
from vtokens.serve.trusted import check_trusted
from vtokens.strategies import parse

FILES = [
    "var(sinks='/etc/passwd')",
    "var(sinks='sinks.json')",
    "dymu(thresholds='/etc/passwd')",
    "mminference(patterns='/etc')",
    "cdpruner(text_model='gpt2')",
    "cdpruner(text_model='gpt2', tokenizer='owner/model')",
    "cls+var(sinks='a')",
    "vcd(branch='var(sinks=\"a\")')",
    "contrast(branch='cls(keep=0.5)+cdpruner(text_model=\"gpt2\")')",
]


@pytest.mark.parametrize("spec", FILES)
def test_files_and_models_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="is not let in from a request: it may name a file or a model"):
        check_trusted(parse(spec))


@pytest.mark.parametrize(
    "spec",
    [
        "none",
        "cls(keep=0.25)",
        "contrast(branch='uniform(keep=0.2)')",
        "dymu(target='low')",
        "fastv(query_scope='last')+cls",
        "dymu(thresholds=(0.9, 0.8))",
    ],
)
def test_all_others_are_let_in(spec: str) -> None:
    check_trusted(parse(spec))


def test_every_field_for_free_text_is_refused() -> None:
    """Of whatever strategy there is, told by the annotations alone; as it is by default it is let in."""
    seen = set()
    for name in vtokens.strategies():
        program = parse(name)
        check_trusted(program)
        for one, field in ((it, part) for it in program for part in dataclasses.fields(it)):
            if field.name not in ("branch", "target", "stop", "tokenizer") and str(field.type).startswith("str"):
                seen.add((one.name, field.name))
                with pytest.raises(ValueError, match=f"{field.name}='/etc/passwd'"):
                    check_trusted([dataclasses.replace(one, **{field.name: "/etc/passwd"})])
    assert {("var", "sinks"), ("mminference", "patterns"), ("cdpruner", "text_model")} <= seen


def test_presets_may_name_files_and_requests_may_not() -> None:
    programs = Programs(Settings(trust=True, presets={"mine": "var(sinks='mine.json')"}))
    chat = {"messages": [{"role": "user", "content": "a"}]}
    assert programs.wish(ChatRequest.model_validate(chat | {"model": "scenes-llava:mine"})).program[0].name == "var"
    assert programs.wish(ChatRequest.model_validate(chat | {"vtokens": {"strategy": "mine"}})).program[0].name == "var"
    with pytest.raises(Refused, match="is not let in from a request") as caught:
        programs.wish(ChatRequest.model_validate(chat | {"vtokens": {"strategy": "var(sinks='mine.json')"}}))
    assert (caught.value.status, caught.value.param) == (400, "vtokens.strategy")
