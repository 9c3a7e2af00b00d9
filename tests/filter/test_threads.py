"""A filter in one thread while another thread uses the model, or filters too: each answers as it does alone."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import TextIteratorStreamer

import vtokens
from tests.engine.state import snapshot
from tests.engine.test_threads import together
from vtokens import HallucinationFilter, scenes
from vtokens.engine.attach import joined
from vtokens.strategies import parse


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


def _works(captions: Any) -> tuple[Any, dict[str, Any]]:
    """A model with a strategy, and what users do with one at the same time: name -> a function."""
    model, processor = vtokens.load("scenes-llava", strategy="none")
    vtokens.detach(model)
    handle = vtokens.attach(model.eval(), "cls(keep=0.5)")
    hf = HallucinationFilter(model, processor, signals="fast", extractor="scenes")
    greedy: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}

    def asked(*numbers: int, text: str | None = None) -> Any:
        some = [captions[number] for number in numbers]
        prompts = [scenes.prompt(processor, text or example.question) for example in some]
        return processor(images=[e.image for e in some], text=prompts, padding=True, return_tensors="pt")

    def generate() -> Any:
        return model.generate(**asked(0, 1), **greedy).tolist(), handle.report().samples[1].visual_tokens

    def rows() -> Any:
        with handle.using(["none", "fastv(keep=0.25, layer=1)", "cls(keep=0.25)+vhr"]):
            return model.generate(**asked(2, 3, 4), **greedy).tolist(), handle.report().samples[2].visual_tokens

    def negative() -> Any:
        with handle.using("lqcd"), handle.negative_prompt(**asked(5, text="nothing")):
            return model.generate(**asked(5), **greedy).tolist()

    def merge() -> Any:
        with handle.using("dymu(thresholds=(0.9, 0.9, 0.9))"):
            return model(**asked(1, 6)).logits.sum().item()

    def filtered() -> Any:
        outcomes = hf.generate([captions[7].image], [captions[7].question], max_new_tokens=6)
        return [(o.text, [(m.mention.text, m.score) for m in o.report.mentions]) for o in outcomes]

    def judged() -> Any:
        report = hf.check(captions[8].image, captions[8].question, captions[8].answer)
        return [(m.mention.text, m.score) for m in report.mentions]

    def filter_stream() -> Any:
        return [event.text for event in hf.stream(captions[9].image, captions[9].question, max_new_tokens=6)]

    def stream() -> Any:
        streamer = TextIteratorStreamer(processor.tokenizer, timeout=60, skip_prompt=True)
        thread = threading.Thread(
            target=model.generate, kwargs={**asked(10), **greedy, "streamer": streamer}, daemon=True
        )
        thread.start()
        text = "".join(streamer)
        thread.join()
        return text

    works = (generate, rows, negative, merge, filtered, judged, filter_stream, stream)
    return model, {work.__name__: work for work in works}


@torch.no_grad()
def test_any_two_uses_of_a_model_at_once_and_all_of_them_are_as_alone(captions: Any) -> None:
    """Generation, programs per row, a negative prompt, merging, the filter's three ways in, and a streamer's thread."""
    model, works = _works(captions)
    alone = {name: work() for name, work in works.items()}
    clean = snapshot(model)
    for names in (*itertools.combinations_with_replacement(works, 2), tuple(works)):
        found = together(*(works[name] for name in names), count=1)
        assert found == [[alone[name]] for name in names]
    assert snapshot(model) == clean
    vtokens.detach(model)
