"""A caption data set, filtered: row by row in batches, resumable after any interruption, bad rows set aside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from vtokens.core.reading import regular, same_file
from vtokens.filter.actions.action import check_action
from vtokens.filter.datasets.output_log import OutputLog, Tally, places
from vtokens.filter.datasets.rows import DatasetRow, Refusal, check_form, count, read_rows
from vtokens.filter.datasets.worker import Batch, Done, Worker

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
    progress: Callable[[int], Any] | None = None,
) -> Tally:
    """Filter a file of JSON lines; what an earlier call wrote is kept and not done again.

    Args:
        source: rows as `vtokens.filter.datasets.rows.read_rows` takes them.
        output: see `OutputLog`.
        work: judges batches: `alone(worker)`, or `vtokens.filter.datasets.ray.spread(...)`.
        settings: whatever decides about the results, as JSON; an output begun with others is refused.
        prompt, text: as for `read_rows`.
        batch_size: rows in one pass of the model.
        retry: try again what was set aside.
        progress: called with the number of rows after each batch, and at first with that of the rows done before.

    Raises:
        OSError, ValueError: as `read_rows` and `OutputLog`.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} is not allowed: a whole number from 1 on")
    progress = progress or (lambda rows: None)
    check_apart(source, output)
    with OutputLog(output, {**settings, "prompt": prompt, "text": text}, retry) as log:
        for rows, refusals in work(_pending(log, read_rows(source, prompt, text), batch_size, progress)):
            log.put(rows, refusals)
            progress(len(rows) + len(refusals))
        return log.tally


def check_files(source: str | Path, folder: str | Path, output: str | Path, action: str, *more: str | Path) -> int:
    """What can be known before a model is loaded; returns the number of rows, empty lines aside.

    Raises:
        OSError: the input cannot be read, is no regular file, or there is no folder of pictures or for the output.
        ValueError: no rows, another form than JSON lines, an action that is not for data sets, or as `check_apart`.
    """
    if check_action(action) not in ACTIONS:
        raise ValueError(f"action={action!r} needs texts that can be written again: {', '.join(ACTIONS)} do not")
    found = count(source)
    if not found:
        raise ValueError(f"{source} has no rows: JSON lines with 'image' and 'caption' or 'response' are needed")
    check_form(source)
    for needed in (Path(folder), Path(output).parent):
        if not needed.is_dir():
            raise NotADirectoryError(f"{needed} is no folder")
    check_apart(source, output, *more)
    return found


def check_apart(source: str | Path, output: str | Path, *more: str | Path) -> None:
    """Raise `ValueError` where what is written would replace what is read, or each other; by links, too.

    Args:
        source, output: as of `filter_dataset`, which writes further files beside the output.
        more: what else is read.
    """
    if Path(output).is_dir():
        raise IsADirectoryError(f"{output} is a folder: the output is a file, such as {Path(output, 'checked.jsonl')}")
    written = list(places(output).items())
    for number, (what, path) in enumerate(written):
        if any(same_file(path, read) for read in (source, *more)):
            raise ValueError(f"{path}, {what}, is the input: give another output")
        for other, second in written[:number]:
            if same_file(path, second):
                raise ValueError(f"{path}, {what}, is the same file as {second}, {other}: give another output")
        if path.exists():
            regular(path)


def alone(make: Callable[[], Worker]) -> Work:
    """One batch after the other, by a worker that is made for the first."""

    def work(batches: Iterator[Batch]) -> Iterator[Done]:
        worker: Worker | None = None
        for batch in batches:
            worker = worker or make()
            yield worker(batch)

    return work


def _pending(
    log: OutputLog, rows: Iterable[DatasetRow | Refusal], size: int, progress: Callable[[int], Any]
) -> Iterator[Batch]:
    """Batches of what is not done yet."""
    batch, waiting = Batch(), 0
    for row in rows:
        if log.has(row):
            progress(1)
            continue
        batch.append(row)
        waiting += isinstance(row, DatasetRow)
        if waiting == size or len(batch) == _WAITING:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch
