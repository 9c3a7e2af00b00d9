"""The journal: what was put is there again, whatever happened to the process that put it."""

import dataclasses
import errno
import json
import resource
import subprocess
import sys
import tempfile
import textwrap
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.eval.journal import Answer, Journal, read

ANSWER = Answer("scenes_vqa", 3, "red", 2, 160, 144, 36.5, 10, 40, 8, 32, 0.1, 0.001, 0.2, 0.05, 4, [1, 5])
answers = st.builds(
    partial(dataclasses.replace, ANSWER),
    task=st.sampled_from(["a", "b"]),
    doc=st.integers(0, 5),
    text=st.text(max_size=20),
    encode=st.floats(0, 1e30),
    kept=st.none() | st.lists(st.integers(0, 600), max_size=5),
)


def at(doc, **changes):
    return dataclasses.replace(ANSWER, doc=doc, **changes)


@given(batches=st.lists(st.lists(answers, min_size=1, max_size=3), max_size=4), cut=st.integers(0, 400))
def test_a_torn_file_gives_back_every_whole_line(batches, cut):
    with tempfile.TemporaryDirectory() as folder:
        with Journal(folder, "cell") as journal:
            for batch in batches:
                journal.put(*batch)
        whole = journal.path.read_bytes()
        torn = whole[: max(len(whole) - cut, 0)]
        journal.path.write_bytes(torn)
        everything = [answer for batch in batches for answer in batch]
        kept = everything[: torn.count(b"\n")]
        with Journal(folder, "cell") as again:
            assert list(read(again.path)) == kept
            latest = {(answer.task, answer.doc): answer for answer in kept}
            assert list(again) == [latest[key] for key in sorted(latest)]
            again.put(*everything[len(kept) :])
        assert again.path.read_bytes() == whole


def test_every_rank_is_read_and_only_ones_own_file_is_written(tmp_path):
    with Journal(tmp_path, "fastv@0.5#s0", rank=1) as one:
        one.put(at(1))
    with Journal(tmp_path, "fastv@0.5#s0", rank=11) as eleven:
        eleven.put(at(11))
    with Journal(tmp_path, "fastv@0.5#s00") as other:
        other.put(at(2))
    before = one.path.read_bytes()
    one.path.write_bytes(before + b'{"task": "sce')  # another rank's unfinished line is left to that rank
    with Journal(tmp_path, "fastv@0.5#s0") as zero:
        assert [answer.doc for answer in zero] == [1, 11]
        assert zero.get("scenes_vqa", 2) is None
        zero.put(at(3))
        assert zero.get("scenes_vqa", 3) == at(3)
    assert one.path.read_bytes() == before + b'{"task": "sce'
    assert json.loads(zero.path.read_text()) == dataclasses.asdict(at(3))


def test_cells_of_any_name_have_files_of_their_own(tmp_path):
    for number, cell in enumerate(["a/b", "a%2Fb", "a\\b", "../a"]):
        with Journal(tmp_path / "answers", cell) as journal:
            journal.put(at(number))
            assert len(journal) == 1
            assert journal.path.parent == tmp_path / "answers"


@pytest.mark.parametrize("line", ["{}", "3", "not json", '{"task": "a"}', "\0\0"])
def test_a_damaged_line_is_named(tmp_path, line):
    with Journal(tmp_path, "cell") as journal:
        journal.put(at(0), at(1))
    first, second = journal.path.read_text().splitlines()
    journal.path.write_text(f"{first}\n{line}\n{second}\n")
    with pytest.raises(ValueError, match=r"rank0.jsonl, line 2, is damaged.*delete it"):
        Journal(tmp_path, "cell")


def test_a_file_that_cannot_grow_keeps_what_was_there(tmp_path):
    # In a process of its own, as a limit on the size of files cannot be taken back.
    script = f"""
        import resource
        from tests.eval.test_sweep_journal import at
        from vtokens.eval.journal import Journal
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        with Journal({str(tmp_path)!r}, "cell") as journal:
            for doc in range(100):
                journal.put(at(doc, text="x" * 200))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert f"[Errno {errno.EFBIG}]" in done.stderr
    with Journal(tmp_path, "cell") as journal:
        assert 0 < len(journal) < 100
        assert f"{len(journal)} answers are kept in {tmp_path}" in done.stderr
        assert journal.path.read_bytes().endswith(b"}\n")  # nothing torn was left behind
        journal.put(at(99))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "answers").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="answers"):
        Journal(tmp_path / "answers", "cell")


def test_numbers_json_cannot_hold_are_refused(tmp_path):
    with Journal(tmp_path, "cell") as journal:
        with pytest.raises(ValueError, match="JSON"):
            journal.put(at(0), at(1, kept_tokens=float("nan")))
        assert len(journal) == 0
    assert journal.path.read_bytes() == b""
