"""A filter in one thread while another thread uses the model, or filters too: each answers as it does alone."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TextIteratorStreamer

import vtokens
from tests.engine.cases import share
from tests.engine.state import snapshot
from tests.engine.test_threads import together
from vtokens import HallucinationFilter, scenes
from vtokens.engine.attach import joined
from vtokens.strategies import parse

GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(autouse=True)
def _often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("strategy", [None, "fastv(keep=0.5)", "pai"])
def test_filters_beside_generate(strategy: str | None, captions: Any) -> None:
    model, processor = vtokens.load("scenes-llava", strategy="none")
    vtokens.detach(model)
    hf = HallucinationFilter(model.eval(), processor, signals="fast", extractor="scenes")
    first, second = captions[:1], captions[1:2]
    prompt = scenes.prompt(processor, second[0].question)
    inputs = processor(images=second[0].image, text=prompt, return_tensors="pt")
    model.generate(**inputs, max_new_tokens=6, do_sample=False)
    clean = snapshot(model)
    if strategy is not None:
        vtokens.attach(model, strategy)

    def filtered(examples: Any) -> Any:
        outcomes = hf.generate([e.image for e in examples], [e.question for e in examples], max_new_tokens=8)
        return [(o.text, [(m.mention.text, m.score) for m in o.report.mentions]) for o in outcomes]

    def answered() -> Any:
        return model.generate(**inputs, max_new_tokens=6, do_sample=False).tolist()

    works = [lambda: filtered(first), lambda: filtered(second), answered]
    alone = [work() for work in works]
    for found, expected in zip(together(*works, count=3), alone, strict=True):
        assert all(one == expected for one in found)
    vtokens.detach(model)
    assert snapshot(model) == clean
    with torch.no_grad():
        assert model.generate(**inputs, max_new_tokens=6, do_sample=False).shape[1] > inputs["input_ids"].shape[1]


def test_a_stream_runs_under_the_blocks_of_its_caller(captions: Any) -> None:
    """The model writes in a thread of its own, which sees them all the same."""
    model, processor = vtokens.load("scenes-llava", strategy="none")
    hf = HallucinationFilter(model.eval(), processor, signals="fast", extractor="scenes")
    seen = []
    for example in captions[:4]:
        asked = (example.image, example.question)
        plain = "".join(event.text for event in hf.stream(*asked, threshold=1.0, max_new_tokens=8))
        with joined(model, *parse("uniform(keep=0.03)")):
            pruned = hf.generate(*asked, threshold=1.0, max_new_tokens=8).text
            assert "".join(event.text for event in hf.stream(*asked, threshold=1.0, max_new_tokens=8)) == pruned
        seen.append(pruned != plain)
    assert any(seen)


class Uses:
    """What users do with one model at the same time; each use is a method that takes the number of its settings.

    Attributes:
        model: with a strategy attached.
    """

    names = ("generate", "rows", "negative", "merge", "forward", "filtered", "judged", "filter_stream", "stream")

    def __init__(self, captions: Any, spec: str = "cls(keep=0.5)") -> None:
        self.model, self._processor = vtokens.load("scenes-llava", strategy="none")
        vtokens.detach(self.model)
        self._handle, self._captions = vtokens.attach(self.model.eval(), spec), captions
        self._filter = HallucinationFilter(self.model, self._processor, signals="fast", extractor="scenes")

    def alone(self, name: str, number: int) -> Any:
        """What a use gives where it is the only one."""
        return getattr(self, name)(number)

    def _asked(self, *numbers: int, text: str | None = None) -> Any:
        some = [self._captions[number % len(self._captions)] for number in numbers]
        prompts = [scenes.prompt(self._processor, text or example.question) for example in some]
        return self._processor(images=[e.image for e in some], text=prompts, padding=True, return_tensors="pt")

    def _answers(self, inputs: Any) -> Any:
        return self.model.generate(**inputs, **GREEDY).tolist()

    def generate(self, number: int) -> Any:
        given = self._asked(*range(number, number + 1 + number % 3))
        return self._answers(given), self._handle.report().samples[-1].visual_tokens

    def rows(self, number: int) -> Any:
        programs = ["none", "fastv(keep=0.25, layer=1)", "cls(keep=0.25)+vhr", "uniform(keep=0.1)", "pai"]
        programs = [*programs[number % 5 :], *programs[: number % 5]][:3]
        with self._handle.using(programs):
            given = self._asked(number + 2, number + 3, number + 4)
            return self._answers(given), self._handle.report().samples[2].visual_tokens

    def negative(self, number: int) -> Any:
        spec = ("lqcd", "cls(keep=0.3)+lqcd(alpha=0.5)", "vcd", "m3id")[number % 4]
        other = self._handle.negative_prompt(**self._asked(number + 5, text="nothing"))
        with self._handle.using(spec), other if "lqcd" in spec else nullcontext():
            return self._answers(self._asked(number + 5))

    def merge(self, number: int) -> Any:
        with self._handle.using(f"dymu(thresholds={(0.9 - number / 20,) * 3})"):
            return self.model(**self._asked(number + 1, number + 6)).logits.sum().item()

    def forward(self, number: int) -> Any:
        return self.model(**self._asked(number, number + 2)).logits.sum().item()

    def filtered(self, number: int) -> Any:
        example = self._captions[(number + 7) % len(self._captions)]
        outcomes = self._filter.generate([example.image], [example.question], max_new_tokens=6)
        return [(o.text, [(m.mention.text, m.score) for m in o.report.mentions]) for o in outcomes]

    def judged(self, number: int) -> Any:
        example = self._captions[(number + 8) % len(self._captions)]
        report = self._filter.check(example.image, example.question, example.answer)
        return [(m.mention.text, m.score) for m in report.mentions]

    def filter_stream(self, number: int) -> Any:
        example = self._captions[(number + 9) % len(self._captions)]
        return [event.text for event in self._filter.stream(example.image, example.question, max_new_tokens=6)]

    def stream(self, number: int) -> Any:
        streamer = TextIteratorStreamer(self._processor.tokenizer, timeout=60, skip_prompt=True)
        options = {**self._asked(number + 10), **GREEDY, "streamer": streamer}
        thread = threading.Thread(target=self.model.generate, kwargs=options, daemon=True)
        thread.start()
        text = "".join(streamer)
        thread.join()
        return text


@torch.no_grad()
def test_any_two_uses_of_a_model_at_once_and_all_of_them_are_as_alone(captions: Any) -> None:
    """Generation, programs per row, negative prompts, merging, a plain call, the filter's ways in, a streamer."""
    uses = Uses(captions)
    alone = {name: uses.alone(name, 0) for name in uses.names}
    clean = snapshot(uses.model)
    for names in (*itertools.combinations(uses.names, 2), uses.names):
        found = together(*(partial(uses.alone, name, 0) for name in names), count=1)
        assert found == [[alone[name]] for name in names]
    assert snapshot(uses.model) == clean
    vtokens.detach(uses.model)


@pytest.fixture(scope="module")
def attached(captions: Any) -> Callable[[str], tuple[Uses, Callable[[str, int], Any], Any]]:
    """By a strategy: a model under it, what its uses give alone, and what can be seen of it from outside."""

    @cache
    def made(spec: str) -> tuple[Uses, Callable[[str, int], Any], Any]:
        uses = Uses(captions, spec)
        uses.forward(0)  # transformers leaves hooks of its own at the first call
        return uses, cache(uses.alone), snapshot(uses.model)

    return made


@pytest.mark.fuzz
@settings(max_examples=share(25))
@given(
    spec=st.sampled_from(["none", "cls(keep=0.5)", "fastv(keep=0.3, layer=1)+vhr", "uniform(keep=0.2)+pai"]),
    drawn=st.lists(st.tuples(st.sampled_from(Uses.names), st.integers(0, 5)), min_size=2, max_size=4),
)
@torch.no_grad()
def test_uses_drawn(attached: Any, spec: str, drawn: list[tuple[str, int]]) -> None:
    """Two to four of them at once, each with settings of its own, under any strategy."""
    uses, alone, clean = attached(spec)
    expected = [[alone(name, number)] for name, number in drawn]
    assert together(*(partial(uses.alone, name, number) for name, number in drawn), count=1) == expected
    assert snapshot(uses.model) == clean
