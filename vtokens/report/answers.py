"""The answers of every setting to every question, from samples.jsonl."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtokens.eval.pictures import origin, path

from .reading import lines
from .results import Results, mean, number


class GivenAnswer(NamedTuple):
    """The answer of one setting to one question.

    `kept` are int32 cells y * w + x of `grid` = (h, w); both are None where no picture of the question is at hand.
    """

    text: str
    correct: bool | None
    kept: np.ndarray | None
    grid: tuple[int, int] | None


@dataclass
class Question:
    """A document of a task under one seed, with what each setting (by key) answered, and its picture's file."""

    task: str
    seed: int
    doc: int
    text: str
    target: str
    picture: Path | None
    given: dict[str, GivenAnswer] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """Everything read from samples.jsonl.

    Attributes:
        questions: by task, seed and document. One that several seeds ask is there once, with the first seed's answers:
            to count it again would make a difference look surer than it is.
        count: of answers, all seeds.
        kv_bytes: by setting key, means of the bytes cached as run and unpruned.
        batch: the largest.
        unread: lines that could not be read.
    """

    questions: tuple[Question, ...]
    count: int
    kv_bytes: dict[str, tuple[float, float]]
    batch: int
    unread: int


def read_answers(results: Results) -> Answers:
    """Read samples.jsonl; no questions where there is no such file."""
    samples = results.folder / "samples.jsonl"
    questions: dict[tuple[str, int, int], Question] = {}
    sums: dict[str, list[tuple[float, float]]] = {}
    unread, batch = 0, 0
    for row in lines(samples, "sample") if samples.is_file() else ():
        if row is None or str(row.get("cell")) not in results.cells or not isinstance(row.get("doc"), int):
            unread += 1
            continue
        setting, seed = results.cells[str(row["cell"])]
        task = str(row.get("task"))
        where = (task, _origin(results, task, seed), row["doc"])
        if where not in questions:
            questions[where] = _question(results, where, row)
        question = questions[where]
        question.given.setdefault(setting, _given(row, question.picture is not None))
        sums.setdefault(setting, []).append((number(row.get("kv_bytes")), number(row.get("kv_bytes_full"))))
        batch = max(batch, int(row.get("batch") or 0))
    sizes = {key: (mean(a for a, _ in pairs), mean(b for _, b in pairs)) for key, pairs in sums.items()}
    count = sum(map(len, sums.values()))
    return Answers(tuple(questions[where] for where in sorted(questions)), count, sizes, batch, unread)


def _origin(results: Results, task: str, seed: int) -> int:
    """The first seed that asks the same; `seed` where the manifest does not tell."""
    try:
        return origin(results.manifest["tasks"][task], seed)
    except (KeyError, TypeError, AttributeError):
        return seed


def _question(results: Results, where: tuple[str, int, int], row: dict[str, Any]) -> Question:
    task, seed, doc = where
    picture = path(results.folder, task, seed, doc)
    texts = [_text(row.get(name)) for name in ("question", "target")]
    return Question(task, seed, doc, texts[0], texts[1], picture if picture.is_file() else None)


def _given(row: dict[str, Any], pictured: bool) -> GivenAnswer:
    correct = row.get("correct")
    kept, grid = row.get("kept"), row.get("grid")
    drawn = pictured and isinstance(kept, list) and isinstance(grid, list) and len(grid) == 2
    return GivenAnswer(
        _text(row.get("text")),
        correct if isinstance(correct, bool) else None,
        np.array(kept, dtype=np.int32) if drawn else None,
        (int(grid[0]), int(grid[1])) if drawn and grid else None,
    )  # fmt: skip


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "" if value is None else str(value).strip()
