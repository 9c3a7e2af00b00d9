"""What a model answered, one JSON line an answer, safe on disk before the next batch begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vtokens.core.jsonlines import JsonLines, read_lines
from vtokens.core.reading import MEBIBYTE, parse_json
from vtokens.schemas import check


@dataclass(frozen=True)
class Answer:
    """One request to the model and what it cost.

    Attributes:
        task: the lmms-eval task.
        doc: the document's number in the task.
        text: what the model answered.
        output_tokens, prompt_tokens: tokens generated, and tokens fed with every visual token counted.
        visual_tokens: visual tokens of the prompt before pruning.
        kept_tokens: visual tokens seen, averaged over the decoder layers.
        flops, flops_full: decoder FLOPs of the prefill, as run and unpruned (`vtokens.core.costs.prefill_flops`).
        kv_bytes, kv_bytes_full: bytes of keys and values that the prefill caches, as run and unpruned.
        encode, select, prefill, decode: seconds in the vision tower, in selection (part of `prefill`), in the
            decoder's first pass and in the later ones. A batch is timed as a whole, so these are its time divided by
            its size.
        batch: requests that shared the batch.
        kept: cells of the first picture that the middle decoder layer saw, ascending; None where there is no picture.
            A cell is y * w + x in the last view (of a video, in its first frame).
        grid: [h, w], the rows and columns of those cells.
    """

    task: str
    doc: int
    text: str
    output_tokens: int
    prompt_tokens: int
    visual_tokens: int
    kept_tokens: float
    flops: int
    flops_full: int
    kv_bytes: int
    kv_bytes_full: int
    encode: float
    select: float
    prefill: float
    decode: float
    batch: int
    kept: list[int] | None = None
    grid: list[int] | None = None

    @property
    def first_token(self) -> float:
        """Seconds until the first token: `encode + prefill`."""
        return self.encode + self.prefill


_LONGEST = 64 * MEBIBYTE  # bytes of a line


class Journal:
    """The answers of one cell of a sweep: `folder/<cell>.rank<r>.jsonl`, only ever appended to.

    Every rank's file is read on opening, so that a sweep may go on with another number of processes. A last line that a
    killed process left unfinished does not count, and is cut off the file that this rank writes.

    Args:
        folder: made if it is not there.
        cell: names the files.
        rank: whose file to append to.
        progress: called after each batch, with its size.

    Raises:
        OSError: the folder cannot be written.
        ValueError: a line that is no `Answer`, other than an unfinished last one; another process writes the answers of
            this cell and rank.
    """

    def __init__(
        self, folder: str | Path, cell: str, rank: int = 0, progress: Callable[[int], Any] | None = None
    ) -> None:  # fmt: skip
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.path = Path(folder) / f"{_stem(cell)}{rank}.jsonl"
        self._answers = collect(folder, cell)
        self._progress = progress
        self._file = JsonLines(self.path)

    def get(self, task: str, doc: int) -> Answer | None:
        """The answer to a document, if there is one already."""
        return self._answers.get((task, doc))

    def put(self, *answers: Answer) -> None:
        """Append the answers of a batch; they are on disk when this returns.

        Raises:
            OSError: the disk is full, or the file may not grow: none of `answers` is kept, everything before is.
        """
        self._file.put(map(vars, answers), f"{len(self)} answers are kept in {self.path.parent}")
        self._answers |= {(answer.task, answer.doc): answer for answer in answers}
        if self._progress is not None:
            self._progress(len(answers))

    def close(self) -> None:
        """Close the file; what was put stays readable with `get`."""
        self._file.close()

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[Answer]:
        """The answers, by task and document."""
        return iter([self._answers[key] for key in sorted(self._answers)])

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def collect(folder: str | Path, cell: str) -> dict[tuple[str, int], Answer]:
    """The answers of a cell from the files of every rank, by task and document; raises as `read`."""
    return {(answer.task, answer.doc): answer for path in files(folder, cell) for answer in read(path)}


def files(folder: str | Path, cell: str) -> list[Path]:
    """The files of a cell, of every rank."""
    return sorted(path for path in Path(folder).glob("*.jsonl") if path.name.startswith(_stem(cell)))


def read(path: str | Path) -> Iterator[Answer]:
    """The answers in one file, without an unfinished last line.

    Raises:
        ValueError: a line that is no `Answer`, by its number.
    """
    return read_lines(path, _LONGEST, _answer, "is damaged ({}): delete it to have it asked again")


def _answer(text: str) -> Answer:
    return Answer(**check(parse_json(text), "answer"))


def _stem(cell: str) -> str:
    """What the file names of a cell begin with; no two cells share it."""
    return f"{quote(cell, safe='@#()+=, ')}.rank"
