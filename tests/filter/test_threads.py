"""A filter in one thread while another thread uses the model, or filters too: each answers as it does alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

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
