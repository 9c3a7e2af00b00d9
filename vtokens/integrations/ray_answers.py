"""A file of questions about pictures, answered on a Ray cluster; a call that was killed goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from vtokens.core.errors import shorten
from vtokens.core.jsonlines import JsonLines, read_lines
from vtokens.core.lock import alone
from vtokens.core.on_ray import cluster
from vtokens.core.reading import parse_json, read_json, same_file
from vtokens.core.writing import write_json
from vtokens.integrations.ray_data import answer, imported

if TYPE_CHECKING:
    from vtokens.loading.options import FilterOptions

    class AnswerOptions(FilterOptions, total=False):
        """What `vtokens.integrations.ray_data.answer` takes by name."""

        model: str
        folder: str | Path | None
        batch_size: int
        workers: int
        gpus: float
        max_new_tokens: int


_LINE = 2**24  # bytes
OWN = ("line", "answer", "image_tokens", "kept", "refused")  #: the fields that are added to each row


@dataclass
class Tally:
    """What is in the output: rows with an answer, rows without, and how many of both an earlier call had written."""

    answered: int = 0
    refused: int = 0
    before: int = 0

    def add(self, row: dict[str, Any]) -> None:
        """Count a row as it is written."""
        self.refused += bool(row["refused"])
        self.answered += not row["refused"]


def answer_file(
    source: str | Path,
    output: str | Path,
    *,
    address: str = "local",
    progress: Callable[[int], Any] | None = None,
    **settings: Unpack[AnswerOptions],
) -> Tally:
    """Answer a file of JSON lines on a cluster, each batch on disk before the next is waited for.

    Args:
        source: rows {"image": "a.jpg", "prompt": "What is this?"}, with further fields if they like.
        output: the rows as they are done, in any order, with "line" (their place in the source, from 1), "answer",
            "image_tokens", "kept" and "refused". Beside it lies `<stem>.settings.json`.
        address: "local" for a cluster of this machine alone, "auto" for the one it belongs to, or where the head is.
        progress: called with the number of rows after each batch, and at first with that of rows done before.
        settings: as of `vtokens.integrations.ray_data.answer`.

    Raises:
        ConnectionError: no cluster at the address.
        OSError: a file cannot be read or written.
        RuntimeError: a worker failed; what was done before is kept.
        ValueError: as `answer`; a line that is no row; an output that is the source, or was begun with other settings.
    """
    source, output = Path(source), Path(output)
    if same_file(source, output):
        raise ValueError(f"{output} is the input: give another output")
    with alone(output.with_name(f".{output.name}.lock"), f"writing {output}", "output"):
        rows = dict(enumerate(read_lines(source, _LINE, _row, "is no question ({})", cut_off=False), 1))
        _same_settings(output, settings)
        tally = Tally()
        done = read_lines(output, 2 * _LINE, _done, "is damaged ({}): give another output") if output.exists() else ()
        for row in done:
            if rows.pop(row["line"], None) != {name: value for name, value in row.items() if name not in OWN}:
                raise ValueError(
                    f"line {row['line']} of {source} is not what it was when {output} was begun: give another output"
                )
            tally.add(row)
        tally.before = tally.answered + tally.refused
        if progress is not None and tally.before:
            progress(tally.before)
        if rows:
            _ask(rows, output, address, tally, progress or (lambda count: None), settings)
        return tally


def _ask(
    rows: dict[int, dict[str, Any]], output: Path, address: str, tally: Tally, progress: Callable[[int], Any],
    settings: Mapping[str, Any],
) -> None:  # fmt: skip
    """What is left of the rows, by their lines; of each no more travels than is asked."""
    file = JsonLines(output)
    try:
        ray = imported()
        with cluster(ray, address):
            sent = [{"line": line, "image": row["image"], "prompt": row["prompt"]} for line, row in rows.items()]
            blocks = -(-len(sent) // settings.get("batch_size", 8))
            data = ray.data.from_items(sent, override_num_blocks=blocks)
            for batch in answer(data, **settings).iter_batches(batch_size=None, batch_format="numpy"):
                columns = [batch[name].tolist() for name in OWN]
                found = [dict(zip(OWN, values, strict=True)) for values in zip(*columns, strict=True)]
                file.put([rows[one["line"]] | one for one in found], "every answer so far is kept")
                for one in found:
                    tally.add(one)
                progress(len(found))
    finally:
        file.close()


def _row(text: str) -> dict[str, Any]:
    row = parse_json(text)
    if not isinstance(row, dict):
        raise ValueError(f"{type(row).__name__} in place of an object")
    for name in ("image", "prompt"):
        if not isinstance(row.get(name), str):
            raise ValueError(f"no field {name!r}" if name not in row else f"{name!r} is no text: {shorten(row[name])}")
    if taken := [name for name in OWN if name in row]:
        raise ValueError(f"it has a field {taken[0]!r} already, which the result would replace")
    return row


def _done(text: str) -> dict[str, Any]:
    row = parse_json(text)
    if not isinstance(row, dict) or not set(OWN) <= {*row}:
        raise ValueError(f"an object with {', '.join(OWN)} is needed")
    return row


def _same_settings(output: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than an output was begun with; workers and GPUs may change."""
    path = output.with_name(f"{output.stem}.settings.json")
    now = {name: str(value) for name, value in settings.items() if name not in ("workers", "gpus", "batch_size")}
    if not (output.exists() and output.stat().st_size):
        write_json(path, now)
    elif not path.exists():
        raise ValueError(f"{output} is there already and not from this function: give another output")
    elif (before := read_json(path)) != now:
        raise ValueError(f"{output} was begun with other settings ({before}): give another output, or these again")
