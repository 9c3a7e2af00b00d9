"""Where the rows of a data set end up: filtered in one file, set aside in another, each line in exactly one of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock

from vtokens.core.errors import shorten
from vtokens.core.reading import lines, parse_json, regular
from vtokens.core.writing import append, line, write_json
from vtokens.filter.datasets.bounds import LINE
from vtokens.filter.datasets.rows import OWN, Refusal, Row, digest
from vtokens.schemas import check, load

_KEPT = "every row so far is kept"
_LONGEST = 8 * LINE  # a row with what was found of it
_TOLD = 5  # settings that an error names


@dataclass
class Tally:
    """What is in the files: rows filtered, flagged and changed, mentions and flagged ones, and why rows are aside.

    `silent` rows mention nothing that could be judged; `uncalibrated` ones were judged by scores that only rank.
    """

    rows: int = 0
    flagged_rows: int = 0
    changed_rows: int = 0
    mentions: int = 0
    flagged: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    silent: int = 0
    uncalibrated: int = 0

    def add(self, found: dict[str, Any]) -> None:
        """Count the result of a row."""
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


class Ledger:
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
        self._lock = _locked(self.out, lock)
        try:
            self._check(settings)
            if retry:
                self.rejected.unlink(missing_ok=True)
            self._done: dict[int, str] = {}
            for content in _lines(self.out, "filtered"):
                self._written(content)
            for content in _lines(self.rejected, "rejected"):
                self._refused(content)
            self._files = {path: open(path, "ab", buffering=0) for path in (self.out, self.rejected)}  # noqa: SIM115
        except BaseException:
            self._lock.release()
            raise

    def has(self, row: Row | Refusal) -> bool:
        """Whether a line was dealt with; ValueError if it was another text then."""
        known = self._done.get(row.line)
        if known is not None and known not in row.digests:
            raise ValueError(
                f"line {row.line} of the input is not what it was when {self.out} was begun: give another output, or "
                "have what was set aside tried again if it was mended"
            )
        return known is not None

    def put(self, rows: Sequence[tuple[Row, dict[str, Any]]], refusals: Iterable[Refusal] = ()) -> None:
        """Append rows as they are to be written, and what is set aside; on disk when this returns."""
        aside = list(refusals)
        for path, texts in (
            (self.out, [line(content) for _, content in rows]),
            (self.rejected, [line(asdict(refusal)) for refusal in aside]),
        ):
            if texts:
                self._append(path, "".join(texts).encode())
        for row, content in rows:
            self._done[row.line] = row.digests[0]
            self.tally.add(content[OWN])
        for refusal in aside:
            self._refused(asdict(refusal))

    def close(self) -> None:
        """Close the files and let others at them; a file without a row is removed."""
        for path, file in self._files.items():
            file.close()
            if path == self.rejected and not path.stat().st_size:
                path.unlink()
        self._lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, path: Path, data: bytes) -> None:
        file = self._files[path]
        size = os.fstat(file.fileno()).st_size
        try:
            append(file, data, path, _KEPT)
        except OSError:
            file.truncate(size)
            raise

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
            told = ", ".join(
                f"{shorten(name)[1:-1]} was {shorten(before.get(name))} and is {shorten(settings.get(name))}"
                for name in names[:_TOLD]
            )
            raise ValueError(
                f"{self.out} was begun with other settings, says {path.name} ({told}): give another output, or these "
                "again"
            )

    def _take(self, number: int, content: str) -> None:
        if number in self._done:
            raise ValueError(
                f"{self.out} and {self.rejected.name} say twice what became of line {number}: give another output"
            )
        self._done[number] = content

    def _written(self, content: dict[str, Any]) -> None:
        found = content.pop(OWN)
        content[found["field"]] = found["draft"]
        self._take(found["line"], digest(content))
        self.tally.add(found)

    def _refused(self, content: dict[str, Any]) -> None:
        refusal = Refusal(**content)
        self._take(refusal.line, refusal.digests[0])
        self.tally.refused[refusal.reason.partition(":")[0]] += 1


def _locked(out: Path, path: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ValueError(f"another process is writing {out}: wait for it, or give another output") from error
    return lock


def _lines(path: Path, kind: str) -> Iterable[dict[str, Any]]:
    """The rows in a file, which loses a last line that a killed process left unfinished."""
    if not path.exists():
        return
    regular(path)
    with open(path, "r+b") as file:
        whole = 0
        for number, (data, length) in enumerate(lines(file, _LONGEST), 1):
            try:
                if length > len(data):
                    raise ValueError(f"it has {length:,} bytes")
                if not data.endswith(b"\n"):
                    break
                whole += length
                yield check(parse_json(data.decode("utf-8"), halves=True), kind)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}, is damaged ({error}): give another output") from error
        file.truncate(whole)


def _settings(path: Path) -> dict[str, Any]:
    try:
        return dict(load(path, "settings"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not the settings of a data set that was filtered ({error}): give another output"
        ) from error
