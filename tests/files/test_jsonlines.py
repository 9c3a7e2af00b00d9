"""Files of JSON lines: what a dead process left unfinished goes, however long it is, and nothing else does."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vtokens.core.jsonlines import JsonLines, read_lines
from vtokens.core.reading import lines
from vtokens.eval.journal import Answer, Journal
from vtokens.filter.datasets.output_log import OutputLog
from vtokens.filter.datasets.rows import Refusal

WRITER = """
import sys
from pathlib import Path
from vtokens.core.jsonlines import JsonLines
file = JsonLines(Path(sys.argv[1]))
file.put([0], "")
print("open", flush=True)
for number in range(1, int(sys.argv[2])):
    file.put([[number, "x" * 1000]], "")
input()
"""


def read(path: Path, most: int = 1 << 20) -> list[Any]:
    return list(read_lines(path, most, json.loads, "is damaged ({}): delete it"))


def writer(path: Path, count: int) -> subprocess.Popen[bytes]:
    """A process that has put `count` rows into a file, or is about to, and holds it open."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    return process


@pytest.mark.parametrize("before", [0, 1, 65534, 65535, 65536, 65537, 200_000])
@pytest.mark.parametrize("torn", [0, 1, 65535, 65536, 65537, 200_000])
def test_opening_cuts_off_an_unfinished_line_of_any_length(tmp_path: Path, before: int, torn: int) -> None:
    """Lines and torn ones shorter and longer than the blocks in which the end is looked for."""
    path = tmp_path / "a.jsonl"
    whole = b"".join(json.dumps(row).encode() + b"\n" for row in ["x" * before] * (before > 0))
    path.write_bytes(whole + b'"' + b"y" * torn)
    assert read(path) == ["x" * before] * (before > 0)
    file = JsonLines(path)
    assert path.read_bytes() == whole
    file.put(["next", {"a": 1}], "nothing is kept")
    file.close()
    assert read(path) == [*["x" * before] * (before > 0), "next", {"a": 1}]


def test_a_number_that_json_cannot_hold_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """None of the rows of a batch is written then, and the next batch is."""
    file = JsonLines(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        file.put([1, float("nan")], "nothing is kept")
    file.put([2], "nothing is kept")
    file.close()
    assert read(file.path) == [2]


@pytest.mark.parametrize(
    ("line", "says"), [(b"{", "line 2, is damaged"), (b"\xff", "line 2"), (b"1" * 99, "99 bytes|100 bytes")]
)
def test_a_damaged_line_is_named_with_what_to_do(tmp_path: Path, line: bytes, says: str) -> None:
    """By file and number; a line that is too long is damaged too, finished or not."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n" + line + b"\n3\n")
    with pytest.raises(ValueError, match=rf"a\.jsonl.*({says}).*: delete it"):
        read(path, most=50)


def test_records_that_are_no_log_may_not_be_cut_off(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"1\n2")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2, is wrong: it is cut off"):
        list(read_lines(tmp_path / "a.jsonl", 9, json.loads, "is wrong: {}", cut_off=False))


def test_two_writers_never_share_a_file(tmp_path: Path) -> None:
    """A second one is refused and cuts nothing off, even what looks unfinished; when the first dies, it goes on."""
    path = tmp_path / "a.jsonl"
    with writer(path, 1) as process:
        with path.open("ab") as file:
            file.write(b'"half')
        with pytest.raises(ValueError, match=r"another process is writing .*a\.jsonl"):
            JsonLines(path)
        assert path.read_bytes() == b'0\n"half'
        process.kill()
        process.wait()
        again = JsonLines(path)
        again.put([1], "")
        again.close()
    assert read(path) == [0, 1]


def test_one_object_at_a_time_writes_within_a_process_too(tmp_path: Path) -> None:
    with Journal(tmp_path, "cell"), pytest.raises(ValueError, match="another process is writing"):
        Journal(tmp_path, "cell")
    Journal(tmp_path, "cell").close()


def test_a_reader_beside_a_writer_sees_whole_rows_in_order(tmp_path: Path) -> None:
    """Every look at the file, while rows are put and after a kill in the middle of it, gives a longer beginning."""
    path, before = tmp_path / "a.jsonl", 0
    with writer(path, 100_000) as process:
        while before < 200:
            rows = read(path)
            assert rows == [0, *([number, "x" * 1000] for number in range(1, len(rows)))]
            assert len(rows) >= before
            before = len(rows)
        process.kill()
    JsonLines(path).close()
    assert path.read_bytes().endswith(b"\n")
    assert len(read(path)) >= before


ANSWER = Answer("task", 0, "red", 2, 160, 144, 36.5, 10, 40, 8, 32, 0.1, 0.001, 0.2, 0.05, 4)


def _sweep(folder: Path) -> Path:
    with Journal(folder, "cell") as journal:
        journal.put(ANSWER, dataclasses.replace(ANSWER, doc=1))
        return journal.path


def _filtered(folder: Path) -> Path:
    with OutputLog(folder / "out.jsonl", {}) as log:
        log.put([], [Refusal(1, "no: reason", "a"), Refusal(2, "no: reason", "b")])
        return log.rejected


LOGS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "sweep": (_sweep, lambda folder: Journal(folder, "cell").close()),
    "filter": (_filtered, lambda folder: OutputLog(folder / "out.jsonl", {}).close()),
}


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("change", [{"since": 2}, {"": None}])
def test_a_row_of_another_schema_is_named_and_nothing_is_lost(log: str, change: dict[str, Any], tmp_path: Path) -> None:
    """A field that this release does not know, written by a later one, is neither dropped nor written over."""
    make, again = LOGS[log]
    path = make(tmp_path)
    first, second = path.read_bytes().splitlines(keepends=True)
    there = first + json.dumps({**json.loads(second), **change}).encode() + b"\n" + first[:9]
    path.write_bytes(there)
    with pytest.raises(ValueError, match=rf"{path.name}, line 2, is damaged \(.*{next(iter(change))}.*\)"):
        again(tmp_path)
    assert path.read_bytes() == there


@pytest.mark.parametrize("log", LOGS)
def test_a_torn_last_row_is_cut_off_where_a_log_goes_on(log: str, tmp_path: Path) -> None:
    make, again = LOGS[log]
    path = make(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:9])
    again(tmp_path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("cut", range(1, 10))
@pytest.mark.parametrize("most", [10, 11, 100])
def test_a_line_whose_end_comes_between_two_reads_is_one_line(cut: int, most: int) -> None:
    """Whoever appends may stop anywhere; a reader that met the end of the file there reads on."""

    class Growing(io.RawIOBase):
        """A file that ends where the writer had stopped, and has the rest at the next read."""

        def __init__(self) -> None:
            self.parts = [b"123456789\nab\n"[:cut], b"", b"123456789\nab\n"[cut:]]

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            part = self.parts.pop(0) if self.parts else b""
            buffer[: len(part)] = part
            return len(part)

    found = list(lines(io.BufferedReader(Growing()), most))
    assert found == [(b"123456789\n"[:most], 10), (b"ab\n"[:most], 3)]
