"""Jobs for the batcher, their answers, and what each would be by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from transformers import GenerationConfig

import vtokens
from vtokens import scenes
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.serve.batcher import Batcher
from vtokens.serve.jobs import Began, End, Event, Failed, Job, Text, Token
from vtokens.strategies import format_spec, parse


@lru_cache(maxsize=2)
def loaded(name: str = "scenes-llava") -> tuple[Any, Any]:
    """An embedded model and its processor."""
    return vtokens.load(name)


@lru_cache(maxsize=4)
def questions(n: int = 24) -> list[Any]:
    """Examples with a picture each."""
    return list(scenes.examples("test", n=n))


def prompt(processor: Any, text: str, images: Sequence[Any] = ()) -> dict[str, Any]:
    """One prompt as the processor makes it."""
    group = [list(images)] if images else ()
    return dict(encode_prompts(processor, [question_prompt(processor, text, len(images))], group))


def greedy(most: int = 12, **more: Any) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=most, do_sample=False, **more)


def sampled(most: int = 12, **more: Any) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=most, do_sample=True, **more)


def job(inputs: dict[str, Any], strategy: str = "none", settings: GenerationConfig | None = None, **more: Any) -> Job:
    return Job(inputs, settings or greedy(), parse(strategy), **more)


class Heard:
    """Collects the events of one job."""

    def __init__(self, then: Callable[[Event], None] | None = None) -> None:
        self.events: list[Event] = []
        self._then = then

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self._then is not None:
            self._then(event)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Text))

    @property
    def tokens(self) -> list[Token]:
        return [token for event in self.events if isinstance(event, Text) for token in event.tokens]

    @property
    def began(self) -> Began:
        return next(event for event in self.events if isinstance(event, Began))

    @property
    def failed(self) -> Exception:
        """The error that came in place of an answer."""
        last = self.events[-1]
        assert isinstance(last, Failed)
        return last.error

    @property
    def end(self) -> End:
        """The last event, which ends an answer; an error is raised."""
        last = self.events[-1]
        if isinstance(last, Failed):
            raise last.error
        assert isinstance(last, End)
        return last


@contextmanager
def held(batcher: Batcher) -> Iterator[None]:
    """Keep the model busy, so that what is submitted inside waits; it begins at the end."""
    busy, free = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        free.wait(60)

    future = batcher.alone(hold)
    assert busy.wait(60)
    try:
        yield
    finally:
        free.set()
        future.result(60)


def answers(batcher: Batcher, jobs: Sequence[Job], seconds: float = 60) -> list[Heard]:
    """Submit all at once and wait for all."""
    heard = [Heard() for _ in jobs]
    answering = [batcher.submit(one, on) for one, on in zip(jobs, heard, strict=True)]
    for one in answering:
        assert one.wait(seconds)
    return heard


def together(batcher: Batcher, jobs: Sequence[Job], first: Heard | None = None) -> list[Heard]:
    """Submit jobs so that they are one batch, and wait for all; `first` hears the first of them."""
    heard = [Heard() if number or first is None else first for number in range(len(jobs))]
    with held(batcher):
        waiting = [batcher.submit(one, on) for one, on in zip(jobs, heard, strict=True)]
    assert all(one.wait(60) for one in waiting)
    return heard


def alone(model: Any, handle: Any, one: Job) -> list[int]:
    """The new tokens of a job by plain `generate`, under its strategies and after its seed."""
    with handle.using(format_spec(one.program)):
        if one.seed is not None:
            torch.manual_seed(one.seed)
        out = model.generate(**one.inputs, generation_config=one.settings)
    return out[0, one.inputs["input_ids"].shape[1] :].tolist()
