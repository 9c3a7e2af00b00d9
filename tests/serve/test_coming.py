"""Nobody is waited for where nobody is coming, and those who are share the pass."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

import vtokens
from tests.serve.common import Heard, greedy, job, loaded, prompt, questions
from tests.serve.served import client, serving, user
from vtokens.serve.batcher import Batcher
from vtokens.serve.coming import Coming
from vtokens.serve.jobs import Began
from vtokens.serve.settings import Settings

LONG = 60.0
"""Seconds that no test may take: whoever waits for so long fails it."""


def test_a_job_waits_for_those_that_are_coming_and_for_nobody_else() -> None:
    model, processor = loaded()
    coming, heard = Coming(), [Heard() for _ in range(3)]
    work = job(prompt(processor, "Is it red?"), "none", greedy(2))
    with (
        vtokens.attach(model, "none") as handle,
        Batcher(model, processor, handle, wait=LONG, coming=coming) as batcher,
    ):
        assert batcher.submit(work, heard[0]).wait(LONG / 2)  # nobody is
        leave = [coming.enter(), coming.enter()]
        first = batcher.submit(work, heard[1])
        leave[0]()
        leave[0]()  # once more does no harm
        assert not first.wait(0.3)
        second = batcher.submit(work, heard[2])
        assert not second.wait(0.3)  # the other says when it has submitted all
        leave[1]()
        assert first.wait(LONG / 2)
        assert second.wait(LONG / 2)
    assert [one.rows for who in heard for one in who.events if isinstance(one, Began)] == [1, 2, 2]


def test_who_is_refused_is_not_waited_for() -> None:
    """Over HTTP: a request by itself is answered at once, also after others that came to nothing, and so are four."""
    settings = Settings(wait=LONG, filter="none", page=False)
    example = questions()[0]
    chat = {"messages": [user(example.question, example.image)], "max_tokens": 4, "temperature": 0}
    with serving(settings) as (address, app), client(address) as asks:
        begun = time.monotonic()
        asks.chat.completions.create(model="scenes-llava", **chat)
        for wrong in (
            {"model": "another"},
            {"temperature": 9},
            {"messages": [user("<image> Is it red?", example.image)]},
            {"extra_body": {"vtokens": {"strategy": "cls"}}},
        ):
            with pytest.raises(openai.APIStatusError):
                asks.chat.completions.create(**{"model": "scenes-llava", **chat, **wrong})
            assert not app.state.served.coming
        alone = asks.chat.completions.create(model="scenes-llava", n=2, **chat)
        told = [asks.chat.completions.create(model="scenes-llava", stream=True, **chat)]
        assert "".join(one.choices[0].delta.content or "" for one in told[0]) == alone.choices[0].message.content
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: asks.chat.completions.create(model="scenes-llava", **chat), range(4)))
        assert {one.choices[0].message.content for one in done} == {alone.choices[0].message.content}
        assert time.monotonic() - begun < LONG / 2
        assert not app.state.served.coming
