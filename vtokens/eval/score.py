"""Grading: lmms-eval's outcome of one task as rows of samples with their numbers, and of metrics with intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

from vtokens.eval.cells import Cell
from vtokens.eval.journal import Answer
from vtokens.eval.metrics import Interval, bootstrap, ratio

# Aggregations that lmms-eval tasks bring are Python loops over the samples; this many keep a sweep's scoring short.
_RESAMPLES = 300


@dataclass(frozen=True)
class Graded:
    """One task of one cell, document by document.

    Attributes:
        cell, task: what was asked.
        docs, answers, questions, targets: one entry a document, by number.
        raw: by metric, what the task's scoring gave each document: a number, or a record to be aggregated.
        values: by metric, what the task aggregated that to.
        aggregations: by metric, the function that did.
        judge: the metric that says whether an answer is right, if there is one: the first of the task's metrics of
            which more is better and that gave every document 0 or 1.
    """

    cell: Cell
    task: str
    docs: list[int]
    answers: list[Answer]
    questions: list[str]
    targets: list[Any]
    raw: dict[str, list[Any]]
    values: dict[str, Any]
    aggregations: dict[str, Callable[[list[Any]], Any]]
    judge: str | None

    @property
    def correct(self) -> list[bool | None]:
        """Whether each answer is right; None where the task has no such judgement."""
        if self.judge is None:
            return [None] * len(self.docs)
        return [bool(number(value)) for value in self.raw[self.judge]]

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `samples.jsonl`."""
        return [
            {
                "cell": self.cell.cell,
                **vars(answer),
                "question": self.questions[i],
                "target": self.targets[i],
                "correct": correct,
                "metrics": {name: _finite(number(raw[i])) for name, raw in self.raw.items()},
            }
            for i, (answer, correct) in enumerate(zip(self.answers, self.correct, strict=True))
        ]

    def light(self) -> Graded:
        """The same without what only `rows` needs, which for a long sweep would fill the memory."""
        answers = [replace(answer, text="", kept=None, grid=None) for answer in self.answers]
        return replace(self, answers=answers, questions=[], targets=[])


def grade(cell: Cell, task: Any, outcome: Mapping[str, Any], answers: Mapping[int, Answer]) -> Graded:
    """Read the outcome of `simple_evaluate` for one task.

    Args:
        task: lmms-eval's task object.
        outcome: its `samples`, one entry a document and filter, the first filter first, and `results`, with the
            aggregated metrics as `"metric,filter"` -> value.
        answers: the cell's answers to the task, by document.
    """
    samples, results = (outcome[part][task.config.task] for part in ("samples", "results"))
    by_doc: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for sample in samples:
        by_doc[sample["doc_id"]].append(sample)
    docs = sorted(by_doc)
    filters = [ensemble.name for ensemble in task._filters]
    raw, values, aggregations = {}, {}, {}
    for position, chosen in enumerate(filters):
        for metric, aggregate in task.aggregation().items():
            if f"{metric},{chosen}" in results:
                name = metric if len(filters) == 1 else f"{metric},{chosen}"
                raw[name] = [by_doc[doc][position].get(metric) for doc in docs]
                values[name], aggregations[name] = results[f"{metric},{chosen}"], aggregate
    better = {name: task.higher_is_better().get(name.partition(",")[0]) for name in raw}
    judges = (name for name in raw if better[name] and all(number(value) in (0, 1) for value in raw[name]))
    first = [by_doc[doc][0] for doc in docs]
    return Graded(
        cell,
        task.config.task,
        docs,
        [answers[doc] for doc in docs],
        [next((part for part in sample["arguments"] if isinstance(part, str)), "") for sample in first],
        [plain(sample["target"]) for sample in first],
        raw,
        values,
        aggregations,
        next(judges, None),
    )


def estimate(
    raw: Sequence[Any], value: Any, aggregate: Callable[[list[Any]], Any], groups: Sequence[Hashable] | None = None
) -> Interval | None:  # fmt: skip
    """`value` with its 95% interval, or None where it is no finite number.

    Wilson's interval where the metric is the mean of zeros and ones, a bootstrap of the documents otherwise. An
    aggregation with an attribute `interval` (raw values -> Interval) is asked instead. A figure whose resamples cannot
    be aggregated has NaN for bounds.

    Args:
        raw: what each document was given.
        value: what `aggregate` made of that.
        groups: one label a document, where documents belong together.
    """
    whole = number(value)
    if whole is None or not math.isfinite(whole):
        return None
    known = [number(entry) for entry in raw]
    if all(entry is not None and math.isfinite(entry) for entry in known):
        figures = np.array(known, dtype=float)
        if math.isclose(figures.mean(), whole, rel_tol=1e-9, abs_tol=1e-12):
            if np.isin(figures, (0, 1)).all():
                return ratio(figures.astype(int), np.ones(len(figures), dtype=int), groups=groups)
            return bootstrap(figures, np.mean, groups=groups)
    if groups is None and hasattr(aggregate, "interval"):
        found: Interval = aggregate.interval(list(raw))
        return found
    try:
        drawn = bootstrap(
            np.arange(len(raw)),
            lambda rows: _or_nan(number(aggregate([raw[row] for row in rows]))),
            groups=groups,
            resamples=_RESAMPLES,
        )
    except Exception:  # an aggregation may refuse what a resample holds, such as a single class
        return Interval(whole, math.nan, math.nan, len(raw))
    return Interval(whole, drawn.low, drawn.high, len(raw))


def number(value: Any) -> float | None:
    """A metric's value as a number, or that under `"score"` where it is a record; None for anything else."""
    if isinstance(value, Mapping):
        value = value.get("score")
    return float(value) if isinstance(value, (Real, np.number, np.bool_)) else None


def plain(value: Any) -> Any:
    """`value` as JSON can hold it; what it cannot becomes text."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, float):
        return _finite(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
