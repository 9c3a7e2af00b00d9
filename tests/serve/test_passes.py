"""Prompts of unlike width are read apart where padding costs more than a pass, and answer as alone all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import vtokens
from tests.serve.common import Heard, alone, greedy, job, loaded, prompt, questions, together
from tests.serve.test_joining import passes
from vtokens.serve.batcher import Batcher
from vtokens.serve.jobs import Began, Did, Job
from vtokens.serve.passes import Passes

STRATEGIES = ("none", "cls(keep=0.25)", "fastv(keep=0.5, layer=2)", "todre(keep=0.2)")
SHARES = dict(zip(STRATEGIES, (1.0, 0.25, 0.6, 0.2), strict=True))


def asked(strategy: str, length: int) -> Job:
    inputs = {name: torch.ones(1, length, dtype=torch.long) for name in ("input_ids", "attention_mask", "pixel_values")}
    return job(inputs, strategy)


def did(strategy: str, length: int) -> Did:
    return Did(strategy, length, round(SHARES[strategy] * length), length, 0, 0, 0)


def seconds(costs: tuple[float, float, float], widths: list[float]) -> float:
    """Of a pass over rows of such widths."""
    one, row, position = costs
    return one + row * len(widths) + position * len(widths) * max(widths)


def learnt(costs: tuple[float, float, float], draw: np.random.Generator, noise: float, count: int = 40) -> Passes:
    """What is known after some passes of drawn rows."""
    found = Passes()
    for _ in range(count):
        drawn = [(str(draw.choice(STRATEGIES)), int(draw.integers(300, 700))) for _ in range(int(draw.integers(1, 9)))]
        dids = [did(*one) for one in drawn]
        took = seconds(costs, [one.fed for one in dids]) * float(draw.uniform(1 - noise, 1 + noise))
        found.took([asked(*one) for one in drawn], dids, took)
    return found


def partitions(places: list[int]) -> Iterator[list[list[int]]]:
    """All ways to divide some places."""
    if not places:
        yield []
        return
    first, *rest = places
    for some in partitions(rest):
        yield [[first], *some]
        for number, part in enumerate(some):
            yield [*some[:number], [first, *part], *some[number + 1 :]]


@pytest.mark.parametrize("costs", [(0.02, 0.01, 1e-4), (0.001, 0.05, 1e-3), (0.5, 0.0, 1e-5)])
def test_the_division_is_the_quickest_of_all(costs: tuple[float, float, float]) -> None:
    """Against every way to divide up to six rows, timed by what the passes were drawn from."""
    draw = np.random.default_rng(1)
    learner = learnt(costs, draw, noise=0.0)
    np.testing.assert_allclose(learner.costs()[2], costs[2], rtol=0.1)
    for _ in range(12):
        drawn = [(str(draw.choice(STRATEGIES)), int(draw.integers(300, 700))) for _ in range(int(draw.integers(1, 7)))]
        jobs = [asked(*one) for one in drawn]
        widths = [learner.width(one) for one in jobs]
        for (name, length), width in zip(drawn, widths, strict=True):
            assert abs(width - SHARES[name] * length) < 0.01 * length
        found = learner.apart(jobs)
        assert sorted(place for part in found for place in part) == [*range(len(jobs))]
        assert [part[0] for part in found] == sorted(part[0] for part in found)

        def taken(parts: list[list[int]], of: list[float] = widths) -> float:
            return sum(seconds(costs, [of[place] for place in part]) for part in parts)

        least = min(map(taken, partitions([*range(len(jobs))])))
        assert taken(found) <= least / 0.95 * 1.02


def test_passes_that_took_now_longer_now_shorter_are_learnt_from_all_the_same() -> None:
    costs = (0.02, 0.01, 1e-4)
    learner = learnt(costs, np.random.default_rng(2), noise=0.3, count=100)
    found = learner.costs()
    assert min(found) >= 0
    for widths in ([600.0], [150.0] * 8, [600.0] * 8):
        assert 0.7 < seconds(found, widths) / seconds(costs, widths) < 1.4


def test_as_long_as_little_is_known_a_batch_is_one_pass() -> None:
    jobs = [asked("none", 600), asked("todre(keep=0.2)", 600), asked("none", 600)]
    assert Passes().apart(jobs) == [[0, 1, 2]]
    few = learnt((0.0, 0.0, 1.0), np.random.default_rng(0), 0.0, count=3)
    assert few.apart(jobs) == [[0, 1, 2]]
    many = learnt((0.0, 0.0, 1.0), np.random.default_rng(0), 0.0, count=20)
    assert many.apart(jobs) == [[0, 2], [1]]
    assert many.apart(jobs[:1]) == [[0]]
    new = asked("fastv(keep=0.1, layer=2)", 600)  # taken for as wide as it is
    assert many.apart([new, *jobs]) == [[0, 1, 3], [2]]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Any, Any, Any, Batcher]]:
    """A batcher that has run each strategy, where positions are all that costs anything."""
    model, processor = loaded()
    with (
        vtokens.attach(model, "none") as handle,
        Batcher(model, processor, handle, wait=0, most=8) as batcher,
        pytest.MonkeyPatch.context() as patched,
    ):
        for name in STRATEGIES:
            assert batcher.submit(job(_inputs(0), name, greedy(1)), Heard()).wait(60)
        patched.setattr(batcher._batches._reader.passes, "costs", lambda: (0.0, 0.0, 1.0))
        yield model, processor, handle, batcher


def _inputs(number: int) -> dict[str, Any]:
    one = questions()[number]
    return prompt(loaded()[1], one.question, one.images)


def test_rows_that_were_read_apart_are_written_together_and_answer_as_alone(served: Any) -> None:
    model, _, handle, batcher = served
    jobs = [job(_inputs(0), name, greedy(6, min_new_tokens=6)) for name in (*STRATEGIES, *STRATEGIES)]
    with passes(model) as calls:
        heard = together(batcher, jobs)
    assert [rows for rows, length in calls if length > 1] == [2] * 4
    assert [rows for rows, length in calls if length == 1] == [8] * 5
    assert [told.began.rows for told in heard] == [8] * 8
    expected = [alone(model, handle, one) for one in jobs[:4]]
    assert [list(told.end.ids) for told in heard] == expected * 2


def test_what_acts_in_every_step_is_not_read_apart(served: Any) -> None:
    """`generate` writes such a batch to its end, and others would wait for that."""
    model, _, handle, batcher = served
    jobs = [job(_inputs(0), name, greedy(4)) for name in ("none", "todre(keep=0.2)", "cls(keep=0.25)+vhr")]
    with passes(model) as calls:
        heard = together(batcher, jobs)
    assert [rows for rows, length in calls if length > 1] == [3]
    for one, told in zip(jobs, heard, strict=True):
        assert list(told.end.ids) == alone(model, handle, one)


def test_what_ends_between_the_passes_of_a_batch_is_not_read(served: Any) -> None:
    model, _, handle, batcher = served
    jobs = [job(_inputs(0), name, greedy(3)) for name in STRATEGIES[:3]]
    jobs[1] = replace(jobs[1], deadline=0.5)
    first = Heard(lambda event: time.sleep(0.6) if isinstance(event, Began) else None)
    heard = together(batcher, jobs, first)
    assert (heard[1].end.reason, heard[1].end.did) == ("deadline", None)
    for number in (0, 2):
        assert list(heard[number].end.ids) == alone(model, handle, jobs[number])


def test_a_pass_that_fails_fails_by_itself(served: Any) -> None:
    """And no row of another is read again for it."""
    model, _, handle, batcher = served
    jobs = [job(_inputs(0), name, greedy(3)) for name in ("none", "none", "todre(keep=0.2)", "todre(keep=0.2)")]
    calls: list[int] = []

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        rows, length = kwargs["inputs_embeds"].shape[:2]
        if length > 1:
            calls.append(rows)
            if len(calls) == 2:
                raise RuntimeError("no room for two")

    taken = model.model.language_model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        heard = together(batcher, jobs)
    finally:
        taken.remove()
    assert calls == [2, 2, 1, 1]
    for one, told in zip(jobs, heard, strict=True):
        assert list(told.end.ids) == alone(model, handle, one)
