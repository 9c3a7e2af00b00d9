"""What is measured: one function a question, each a row of figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

import vtokens
from benchmarks.common import Clock, peak_bytes, ratio, rounds, summary
from vtokens import Report
from vtokens.eval.ideal import Ideal

Batch = dict[str, Tensor]
TARGET = 0.9
"""The share of the ideal's speed-up that a strategy must reach."""
MOST_MEMORY = 1.0
"""Peak memory of a pruned call over the unpruned one."""
MOST_COST = 1.03
"""The most that an attached strategy which drops nothing may cost."""


def reported(model: Any, strategy: str, batch: Batch) -> Report:
    """What `strategy` does on `batch`."""
    with vtokens.attach(model, strategy) as handle:
        model.generate(**batch, max_new_tokens=1)
        return handle.report()


def first_token(model: Any, batch: Batch, strategy: str, clock: Clock, count: int) -> dict[str, Any]:
    """Time to first token and peak memory: unpruned, ideal and pruned in the same rounds.

    `speed_up` is unpruned / pruned; `of_ideal` is the share of the ideal's speed-up, which is ideal / pruned;
    `saved_of_ideal` is the share of the time that the ideal saves.
    """
    report, selecting = reported(model, strategy, batch), list[float]()
    ideal = Ideal(model, batch, report)

    def run() -> None:
        model.generate(**batch, max_new_tokens=1)

    def pruned() -> float:
        with vtokens.attach(model, strategy) as handle:
            seconds = clock.time(run)
            selecting.append(handle.report().select_seconds)
        return seconds

    runs = {"unpruned": lambda: clock.time(run), "pruned": pruned}
    runs["ideal"] = lambda: clock.time(lambda: ideal.generate(max_new_tokens=1))
    seconds = rounds(runs, count)
    peaks = {"unpruned": peak_bytes(run, model.device)}
    with vtokens.attach(model, strategy):
        peaks["pruned"] = peak_bytes(run, model.device)
    of_ideal = ratio(seconds["ideal"], seconds["pruned"])
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "strategy": strategy,
        "visual_tokens": [list(sample.visual_tokens) for sample in report.samples],
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "select_wall_seconds": summary(selecting[-count:]),
        "speed_up": ratio(seconds["unpruned"], seconds["pruned"]),
        "ideal_speed_up": ratio(seconds["unpruned"], seconds["ideal"]),
        "of_ideal": of_ideal,
        "saved_of_ideal": (middle["unpruned"] - middle["pruned"]) / (middle["unpruned"] - middle["ideal"]),
        "flops_ratio": report.flops / report.flops_full,
        "kv_ratio": report.kv_bytes / report.kv_bytes_full,
        "peak_bytes": peaks,
        "target_met": {
            "speed-up": of_ideal["median"] >= TARGET,
            "memory": peaks["pruned"] <= MOST_MEMORY * peaks["unpruned"],
        },
    }


def keeping_all(model: Any, batch: Batch, strategies: list[str], clock: Clock, count: int) -> list[dict[str, Any]]:
    """What attached strategies that drop nothing cost, as a share of the time to first token."""

    def plain() -> float:
        return clock.time(lambda: model.generate(**batch, max_new_tokens=1))

    def attached(strategy: str) -> float:
        with vtokens.attach(model, strategy):
            return plain()

    seconds = rounds({"unpruned": plain} | {s: partial(attached, s) for s in strategies}, count)
    cells = []
    for strategy in strategies:
        cost = ratio(seconds[strategy], seconds["unpruned"])
        both = {"unpruned": summary(seconds["unpruned"]), "attached": summary(seconds[strategy])}
        met = cost["median"] <= MOST_COST
        cells.append({"strategy": strategy, "seconds": both, "cost": cost, "target_met": met})
    return cells


class Ticks(BaseStreamer):
    """Notes when each token arrives; the first note is the prompt's."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.at = clock, list[float]()

    def put(self, value: Any) -> None:
        """Called by `generate` with the prompt and with every token."""
        self.at.append(self.clock.now())

    def end(self) -> None:
        """Called by `generate` at its end."""

    @property
    def per_token(self) -> float:
        """Median seconds of a decoding step."""
        return statistics.median(b - a for a, b in zip(self.at[1:-1], self.at[2:], strict=True))


def decoding(model: Any, batch: Batch, strategy: str, clock: Clock, count: int, tokens: int) -> dict[str, Any]:
    """Seconds of a decoding step: unpruned, attached and keeping everything, ideal and pruned."""
    ideal = Ideal(model, batch, reported(model, strategy, batch))

    def timed(run: Callable[..., Any], attach: str | None = None) -> float:
        ticks = Ticks(clock)
        with vtokens.attach(model, attach) if attach else nullcontext():
            run(max_new_tokens=tokens, streamer=ticks)
        return ticks.per_token

    plain = partial(model.generate, **batch)
    runs = {
        "unpruned": partial(timed, plain),
        "keep=1.0": partial(timed, plain, f"{strategy.split('(')[0]}(keep=1.0)"),
        "pruned": partial(timed, plain, strategy),
        "ideal": partial(timed, ideal.generate),
    }
    steps = rounds(runs, count)
    return {
        "strategy": strategy,
        "tokens": tokens,
        "seconds": {name: summary(values) for name, values in steps.items()},
        "pruned_over_ideal": ratio(steps["pruned"], steps["ideal"]),
        "keeping_all_over_unpruned": ratio(steps["keep=1.0"], steps["unpruned"]),
    }
