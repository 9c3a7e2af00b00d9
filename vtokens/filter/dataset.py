"""A caption data set, filtered: row by row in batches, resumable after any interruption, bad rows set aside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from vtokens.filter.actions import Outcome, check_action
from vtokens.filter.ledger import Ledger, Tally
from vtokens.filter.rows import OWN, Refusal, Row, read
from vtokens.images import open_image

Batch = list["Row | Refusal"]
Done = tuple[list[tuple[Row, dict[str, Any]]], list[Refusal]]
"""Rows with what is written for each, and rows that are set aside."""
Work = Callable[[Iterator[Batch]], Iterable[Done]]
"""Does batches, in any order."""

ACTIONS = ("flag", "redact", "abstain")
_WAITING = 256  # refused rows that are written at once


def filter_dataset(
    source: str | Path,
    output: str | Path,
    work: Work,
    settings: dict[str, Any],
    *,
    prompt: str,
    text: str | None = None,
    batch_size: int = 16,
    retry: bool = False,
    told: Callable[[int], Any] | None = None,
) -> Tally:
    """Filter a file of JSON lines; what an earlier call wrote is kept and not done again.

    Args:
        source: rows as `vtokens.filter.rows.read` takes them.
        output: see `Ledger`.
        work: judges batches: `alone(worker)`, or `vtokens.filter.ray.spread(...)`.
        settings: whatever decides about the results, as JSON; an output begun with others is refused.
        prompt, text: as for `read`.
        batch_size: rows in one pass of the model.
        retry: try again what was set aside.
        told: called with the number of rows after each batch, and at first with that of the rows done before.

    Raises:
        OSError, ValueError: as `read` and `Ledger`.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} is not allowed: a whole number from 1 on")
    told = told or (lambda rows: None)
    with Ledger(output, {**settings, "prompt": prompt, "text": text}, retry) as ledger:
        for rows, refusals in work(_pending(ledger, read(source, prompt, text), batch_size, told)):
            ledger.put(rows, refusals)
            told(len(rows) + len(refusals))
        return ledger.tally


def check_files(source: str | Path, folder: str | Path, output: str | Path, action: str) -> int:
    """What can be known before a model is loaded; returns the number of rows, empty lines aside.

    Raises:
        OSError: the input cannot be read, or there is no folder of pictures or for the output.
        ValueError: no rows, an action that is not for data sets, or an output that is the input.
    """
    if check_action(action) not in ACTIONS:
        raise ValueError(f"action={action!r} needs texts that can be written again: {', '.join(ACTIONS)} do not")
    with open(source, "rb") as file:
        found = sum(not line.isspace() for line in file)
    if not found:
        raise ValueError(f"{source} has no rows: JSON lines with 'image' and 'caption' or 'response' are needed")
    for needed in (Path(folder), Path(output).parent):
        if not needed.is_dir():
            raise NotADirectoryError(f"{needed} is no folder")
    if Path(source).resolve() == Path(output).resolve():
        raise ValueError(f"{output} is the input: give another output")
    return found


def alone(make: Callable[[], Worker]) -> Work:
    """One batch after the other, by a worker that is made for the first."""

    def work(batches: Iterator[Batch]) -> Iterator[Done]:
        worker: Worker | None = None
        for batch in batches:
            worker = worker or make()
            yield worker(batch)

    return work


class Worker:
    """Filters batches with one model.

    Args:
        hf: a `HallucinationFilter`.
        folder: paths of pictures are relative to it.
        action: "flag" leaves the texts, "redact" drops sentences, "abstain" puts null in place of the text.
        risk, threshold: as in `HallucinationFilter.act`.

    Raises:
        ValueError: an action that is not for data sets, no threshold, or a risk that cannot be promised.
    """

    def __init__(
        self, hf: Any, folder: str | Path, action: str = "flag", risk: Any = None, threshold: float | None = None
    ) -> None:
        self._hf, self._folder, self._action = hf, Path(folder), action
        self._limit = {"risk": risk, "threshold": threshold}
        hf.act([], [], [], action, **self._limit)  # a risk that cannot be promised is refused before anything is read

    @property
    def promise(self) -> str:
        """What the threshold promises, with its assumptions; empty if nothing."""
        risk, threshold = self._limit.values()
        calibrated = self._hf.calibration is not None and (risk is not None or self._action != "flag")
        return str(self._hf.certificate(risk, self._action)) if calibrated and threshold is None else ""

    def __call__(self, batch: Batch) -> Done:
        """Filter the rows of a batch; one that fails by itself is set aside, whatever the others do."""
        aside, rows, pictures = list[Refusal](), list[Row](), dict[str, Image.Image]()
        for item in batch:
            if isinstance(item, Refusal):
                aside.append(item)
                continue
            try:
                if item.image not in pictures:
                    pictures[item.image] = open_image(self._folder / item.image)
                rows.append(item)
            except (OSError, ValueError) as error:
                aside.append(Refusal(item.line, f"the image does not open: {error}", item.raw))
        try:
            found: list[Outcome | Refusal] = list(self._act(rows, pictures))
        except (ValueError, TypeError):  # one of them; which, shows alone
            found = [self._alone(row, pictures) for row in rows]
        done = [
            (row, self._content(row, one)) for row, one in zip(rows, found, strict=True) if isinstance(one, Outcome)
        ]
        return done, aside + [one for one in found if isinstance(one, Refusal)]

    def _act(self, rows: Sequence[Row], pictures: dict[str, Image.Image]) -> list[Outcome]:
        shown, asked = [pictures[row.image] for row in rows], [row.prompt for row in rows]
        outcomes: list[Outcome] = self._hf.act(shown, asked, [row.text for row in rows], self._action, **self._limit)
        return outcomes

    def _alone(self, row: Row, pictures: dict[str, Image.Image]) -> Outcome | Refusal:
        try:
            return self._act([row], pictures)[0]
        except (ValueError, TypeError) as error:
            return Refusal(row.line, f"it cannot be filtered: {error}", row.raw)

    def _content(self, row: Row, outcome: Outcome) -> dict[str, Any]:
        """The row as it is written."""
        report = outcome.report.to_dict()
        shown = ("start", "end", "text", "kind", "name", "negated", "sentence", "p", "flagged")
        found = {
            "line": row.line,
            "field": row.field,
            "draft": row.text,
            "action": self._action,
            "calibrated": report["calibrated"],
            "threshold": report["threshold"],
            "mentions": [{name: mention[name] for name in shown} for mention in report["mentions"]],
            "sentences": report["sentences"],
            "edits": [asdict(edit) for edit in outcome.edits],
        }
        gone = any(edit.what == "abstained" for edit in outcome.edits)
        return {**row.content, row.field: None if gone else outcome.text, OWN: found}


def _pending(ledger: Ledger, rows: Iterable[Row | Refusal], size: int, told: Callable[[int], Any]) -> Iterator[Batch]:
    """Batches of what is not done yet."""
    batch, waiting = Batch(), 0
    for row in rows:
        if ledger.has(row):
            told(1)
            continue
        batch.append(row)
        waiting += isinstance(row, Row)
        if waiting == size or len(batch) == _WAITING:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch
