"""The output files of a data set: filtered rows in one, rows set aside in another, each line in exactly one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vtokens.core.errors import shorten
from vtokens.core.jsonlines import JsonLines, read_lines
from vtokens.core.lock import alone
from vtokens.core.reading import parse_json
from vtokens.core.writing import write_json
from vtokens.filter.datasets.bounds import LINE
from vtokens.filter.datasets.rows import OWN, DatasetRow, Refusal, digest
from vtokens.schemas import check, load

_KEPT = "every row so far is kept"
_LONGEST = 8 * LINE  # a row with what was found of it
_NAMED = 5  # settings that an error names


@dataclass
class Tally:
    """What is in the files: rows filtered, flagged and changed, mentions and flagged ones, and why rows are aside.

    `silent` rows mention nothing that could be judged; `uncalibrated` ones were judged by scores that only rank;
    `emptied` ones have no text left; of `unjudged` ones something that is said could not be judged.
    """

    rows: int = 0
    flagged_rows: int = 0
    changed_rows: int = 0
    mentions: int = 0
    flagged: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    silent: int = 0
    uncalibrated: int = 0
    emptied: int = 0
    unjudged: int = 0

    def add(self, content: dict[str, Any]) -> None:
        """Count a row as it is written."""
        found = content[OWN]
        self.emptied += bool(found["draft"].strip()) and content.get(found["field"]) == ""
        self.unjudged += bool(found.get("unjudged"))
        bad = sum(bool(mention["flagged"]) for mention in found["mentions"])
        self.rows += 1
        self.flagged_rows += bad > 0
        self.changed_rows += bool(found["edits"])
        self.mentions += len(found["mentions"])
        self.flagged += bad
        self.silent += not found["mentions"]
        self.uncalibrated += not found["calibrated"]


def places(out: str | Path) -> dict[str, Path]:
    """The files of a run with the output `out`, and what each is for."""
    out = Path(out)
    return {
        "the output": out,
        "the file of rows set aside": out.with_name(f"{out.stem}.rejected.jsonl"),
        "the file of settings": out.with_name(f"{out.stem}.settings.json"),
        "the lock": out.with_name(f".{out.name}.lock"),
    }


class OutputLog:
    """The output files of a run, only ever appended to, so that a killed run goes on where it was.

    `out` holds a row a line: the input's fields and OWN. Beside it lie `<stem>.rejected.jsonl` and
    `<stem>.settings.json`. Every batch is on disk before the next begins.

    Args:
        out: the file of filtered rows.
        settings: what must be the same when a run is taken up again.
        retry: forget what was set aside, so that it is tried again.

    Raises:
        OSError: a file cannot be written.
        ValueError: another process writes to it, files of a run with other settings, or a damaged line.
    """

    def __init__(self, out: str | Path, settings: dict[str, Any], retry: bool = False) -> None:
        self.out, self.rejected, self._settings, lock = places(out).values()
        self.tally = Tally()
        self._done: dict[int, str] = {}
        with ExitStack() as held:
            held.enter_context(alone(lock, f"writing {self.out}", "output"))
            self._check(settings)
            if retry:
                self.rejected.unlink(missing_ok=True)
            for content in _lines(self.out, "filtered"):
                self._written(content)
            for content in _lines(self.rejected, "rejected"):
                self._refused(content)
            held.callback(self._tidy)
            # Opening cuts off what is unfinished, so it waits until the files are known to be this run's.
            self._files = [held.enter_context(closing(JsonLines(path))) for path in (self.out, self.rejected)]
            self._held = held.pop_all()

    def has(self, row: DatasetRow | Refusal) -> bool:
        """Whether a line was dealt with; ValueError if it was another text then."""
        known = self._done.get(row.line)
        if known is not None and known not in row.digests:
            raise ValueError(
                f"line {row.line} of the input is not what it was when {self.out} was begun: give another output, or "
                "have what was set aside tried again if it was mended"
            )
        return known is not None

    def put(self, rows: Sequence[tuple[DatasetRow, dict[str, Any]]], refusals: Iterable[Refusal] = ()) -> None:
        """Append rows as they are to be written, and what is set aside; on disk when this returns."""
        aside = list(refusals)
        for file, contents in zip(self._files, ([content for _, content in rows], [*map(asdict, aside)]), strict=True):
            if contents:
                file.put(contents, _KEPT)
        for row, content in rows:
            self._done[row.line] = row.digests[0]
            self.tally.add(content)
        for refusal in aside:
            self._refused(asdict(refusal))

    def close(self) -> None:
        """Close the files and let others at them; a file without a row is removed."""
        self._held.close()

    def __enter__(self) -> OutputLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tidy(self) -> None:
        if self.rejected.exists() and not self.rejected.stat().st_size:
            self.rejected.unlink()

    def _check(self, settings: dict[str, Any]) -> None:
        path, there = self._settings, self._settings.exists()
        begun = [file for file in (self.out, self.rejected) if file.exists() and file.stat().st_size]
        before = _settings(path) if there else {}
        if (begun and not there) or (there and not begun and not {*before} <= {*settings}):
            strange = begun[0] if begun else path
            raise ValueError(f"{strange} is there already and not from this command: give another output")
        if not begun:
            write_json(path, settings)
            return
        names = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
        if names:
            changed = ", ".join(
                f"{shorten(name)[1:-1]} was {shorten(before.get(name))} and is {shorten(settings.get(name))}"
                for name in names[:_NAMED]
            )
            raise ValueError(
                f"{self.out} was begun with other settings, says {path.name} ({changed}): give another output, or "
                "these again"
            )

    def _take(self, number: int, content: str) -> None:
        if number in self._done:
            raise ValueError(
                f"{self.out} and {self.rejected.name} say twice what became of line {number}: give another output"
            )
        self._done[number] = content

    def _written(self, content: dict[str, Any]) -> None:
        self.tally.add(content)
        found = content.pop(OWN)
        content[found["field"]] = found["draft"]
        self._take(found["line"], digest(content))

    def _refused(self, content: dict[str, Any]) -> None:
        refusal = Refusal(**content)
        self._take(refusal.line, refusal.digests[0])
        self.tally.refused[refusal.reason.partition(":")[0]] += 1


def _lines(path: Path, kind: str) -> Iterable[dict[str, Any]]:
    """The rows in a file, if it is there."""

    def checked(text: str) -> dict[str, Any]:
        return dict(check(parse_json(text, halves=True), kind))

    return read_lines(path, _LONGEST, checked, "is damaged ({}): give another output") if path.exists() else ()


def _settings(path: Path) -> dict[str, Any]:
    try:
        return dict(load(path, "settings"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not the settings of a data set that was filtered ({error}): give another output"
        ) from error
