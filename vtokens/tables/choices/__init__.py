"""Which pruner was best at what a user wants to know, by family, task and budget: from measured results alone.

`python benchmarks/choose.py` writes `choices.json` from benchmarks/results; nothing is in it that was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from vtokens.core.errors import unknown
from vtokens.tables import base

SCHEMA = 1
TASKS = ("ocr", "grounding", "counting", "caption", "yes_no", "video", "general")


@dataclass(frozen=True)
class Chosen:
    """The pruner for a task at a budget, and how it was measured.

    Attributes:
        family: transformers' `model_type` of the model that was measured.
        task: one of `TASKS`.
        keep: the share of a picture's tokens that was kept.
        spec: the pruner, without its keep.
        share, low, high, n: of n questions of the task answered rightly, with a 95% interval.
        random: the share that random pruning answers at that keep.
        ahead: whether the interval lies above that.
        model: which model.
        source: the folder under benchmarks/results.
    """

    family: str
    task: str
    keep: float
    spec: str
    share: float
    low: float
    high: float
    n: int
    random: float
    ahead: bool
    model: str
    source: str

    def __str__(self) -> str:
        level = "" if self.ahead else ", which is not clearly ahead of it"
        return (
            f"measured on {self.model} only, at keep={self.keep:g}: {self.share:.1%} [{self.low:.1%}, {self.high:.1%}] "
            f"of {self.n} questions, random pruning {self.random:.1%}{level} (benchmarks/results/{self.source})"
        )


@cache
def known() -> tuple[Chosen, ...]:
    """All that was measured."""
    return tuple(one for table in base.shipped(__name__, parse) for one in table)


def parse(content: Any) -> list[Chosen]:
    """The entries of a file of choices."""
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']!r}: {SCHEMA} is read")
    return [Chosen(**entry) for entry in content["choices"]]


def tasks(family: str) -> tuple[str, ...]:
    """The tasks that were measured on a family."""
    return tuple(task for task in TASKS if any((one.family, one.task) == (family, task) for one in known()))


def choose(family: str, task: str, keep: float, among: Sequence[Chosen] | None = None) -> Chosen:
    """What was best for a task on a family, at the measured budget nearest to `keep`, as ratios go.

    Args:
        family: transformers' `model_type`.
        task: one of `TASKS`.
        keep: a share in (0, 1].
        among: what was measured; None is `known()`.

    Raises:
        ValueError: nothing was measured on that family, or for that task there; names what was.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    measured = known() if among is None else among
    there = [one for one in measured if one.family == family]
    if not there:
        told = {one.family: one.model for one in measured}
        raise ValueError(
            f"no pruner was measured on a model of the {family!r} family, and 'auto' does not guess: tables are there "
            f"for {', '.join(f'{name!r} (of {model})' for name, model in sorted(told.items()))}. Name a strategy, such "
            "as 'census(keep=0.1)' (`vtokens strategies --family` lists those that run on it)"
        )
    fitting = [one for one in there if one.task == task]
    if not fitting:
        tasks = sorted({one.task for one in there})
        raise ValueError(
            f"task={task!r} was not measured on a model of the {family!r} family, and 'auto' does not guess: "
            f"{', '.join(map(repr, tasks))} {'was' if len(tasks) == 1 else 'were'}"
        )
    return min(fitting, key=lambda one: (abs(math.log(one.keep / keep)), one.keep))
