"""Jobs of mixed strategies through the batcher: each answers as it does alone, whatever it shares a pass with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import vtokens
from tests.serve.common import alone, answers, greedy, job, loaded, prompt, questions, sampled
from vtokens.serve.batcher import Batcher


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Any, Any, Any, Batcher]]:
    model, processor = loaded()
    with vtokens.attach(model, "none") as handle, Batcher(model, processor, handle) as batcher:
        yield model, processor, handle, batcher


def test_each_job_answers_as_alone(served: Any) -> None:
    model, processor, handle, batcher = served
    strategies = ["none", "cls(keep=0.25)", "fastv(keep=0.5, layer=2)+vhr", "vcd", "todre(keep=0.2)", "m3id"]
    settings = [greedy(), sampled(temperature=1.5), greedy(2), sampled(6, top_p=0.8, repetition_penalty=1.3)]
    jobs = [
        job(prompt(processor, one.question, one.images), strategies[i % 6], settings[i % 4], seed=i)
        for i, one in enumerate(questions())
    ]
    for one, heard in zip(jobs, answers(batcher, jobs), strict=True):
        ids = alone(model, handle, one)
        assert list(heard.end.ids) == ids
        assert heard.text == processor.tokenizer.decode(ids, skip_special_tokens=True)
