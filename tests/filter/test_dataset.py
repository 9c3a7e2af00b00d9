"""A caption data set on the embedded model: every line in exactly one file, whatever happens on the way."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.filter.filtering import PROMPT, data_set, filtered, lines, made, started
from vtokens.filter.datasets.dataset import ACTIONS, check_files
from vtokens.filter.datasets.rows import read_rows
from vtokens.filter.datasets.worker import Worker

BAD = [
    b'{"id": "row 3", "image": "3.png", "caption": "red circle"}\n',
    b'{"image": "none.png", "caption": "red circle"}\n',
    b'{"image": "half.png", "caption": "red circle"}\n',
    b'{"image": "text.png", "caption": "red circle"}\n',
    b'{"image": "..", "caption": "red circle"}\n',
    b'{"caption": "red circle"}\n',
    b"\n",
    b"nonsense \xff\n",
    b'{"image": "1.png", "capt',
]


@pytest.fixture(scope="module")
def hf():
    return made()


@pytest.fixture
def source(tmp_path):
    path = data_set(tmp_path / "data")
    whole = (path.parent / "1.png").read_bytes()
    (path.parent / "half.png").write_bytes(whole[: len(whole) // 2])
    (path.parent / "text.png").write_text("no picture")
    with path.open("ab") as file:
        file.writelines(BAD)
    return path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(rows, rejected rows) of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    filtered(data_set(folder / "data"), folder / "out.jsonl")
    return lines(folder / "out.jsonl"), lines(folder / "out.rejected.jsonl")


def test_every_line_ends_up_in_one_of_the_files(source, tmp_path, hf):
    counted = []
    tally = filtered(source, tmp_path / "out.jsonl", hf, batch_size=5, progress=counted.append)
    done, aside = lines(tmp_path / "out.jsonl"), lines(tmp_path / "out.rejected.jsonl")
    assert [row["filter"]["line"] for row in done] == list(range(1, 25))
    assert [row["line"] for row in aside] == [25, 26, 27, 28, 29, 30, 32, 33]
    assert sum(counted) == 32
    reasons = [row["reason"] for row in aside]
    assert reasons[0] == 'duplicate id: line 4 has "row 3" too'
    assert all("the image does not open" in reason for reason in reasons[1:4])
    assert reasons[4].startswith("the image is not allowed: '..' lies outside of ")
    assert reasons[5] == "no field 'image'"
    assert all("no JSON" in reason for reason in reasons[6:])
    raw = [text.rstrip(b"\n").decode("utf-8", "surrogateescape") for text in BAD if text.strip()]
    assert [row["raw"] for row in aside] == raw
    assert (tally.rows, sum(tally.refused.values())) == (24, 8)
    assert tally.refused["the image does not open"] == 3


def test_what_is_not_there_is_redacted_and_the_rest_stays(source, tmp_path, hf):
    tally = filtered(source, tmp_path / "out.jsonl", hf)
    rows = [json.loads(text) for text in source.read_bytes().splitlines()[:24]]
    gone = 0
    for before, after in zip(rows, lines(tmp_path / "out.jsonl"), strict=True):
        assert after["filter"]["draft"] == before["caption"]
        assert {name: after[name] for name in ("id", "image", "source")} == {
            name: before[name] for name in ("id", "image", "source")
        }
        left = [part for part in before["caption"].split(", ") if part in after["caption"].split(", ")]
        assert after["caption"] == ", ".join(left)
        flagged = [mention["name"] for mention in after["filter"]["mentions"] if mention["flagged"]]
        assert set(flagged) == set(before["caption"].split(", ")) - set(left)
        gone += before["caption"].split(", ")[-1] not in left and len(left) > 0
    assert tally.flagged >= gone >= 10  # 12 captions end in something that is not there


@pytest.mark.parametrize(("action", "changed"), [("flag", lambda text: text), ("abstain", lambda text: None)])
def test_other_actions(source, tmp_path, hf, action, changed):
    filtered(source, tmp_path / "out.jsonl", hf, action=action)
    done = lines(tmp_path / "out.jsonl")
    bad = [row for row in done if any(mention["flagged"] for mention in row["filter"]["mentions"])]
    assert len(bad) >= 10
    assert all(row["caption"] == changed(row["filter"]["draft"]) for row in bad)
    assert all(row["caption"] == row["filter"]["draft"] for row in done if row not in bad)


def test_batches_judge_as_single_rows_do(source, tmp_path, hf):
    filtered(source, tmp_path / "one.jsonl", hf, batch_size=1)
    filtered(source, tmp_path / "all.jsonl", hf, batch_size=24)
    for one, other in zip(lines(tmp_path / "one.jsonl"), lines(tmp_path / "all.jsonl"), strict=True):
        assert one["caption"] == other["caption"]
        pairs = zip(one["filter"]["mentions"], other["filter"]["mentions"], strict=True)
        assert all(a["p"] == pytest.approx(b["p"], abs=1e-4) for a, b in pairs)


def test_a_row_that_fails_by_itself_does_not_take_its_batch_along(source, tmp_path, hf):
    """A response longer than the model's context among ordinary ones."""
    text = source.read_bytes().splitlines(keepends=True)
    long = json.dumps({"image": "0.png", "caption": "red circle , " * 600}).encode() + b"\n"
    source.write_bytes(b"".join([*text[:3], long, *text[3:6]]))
    filtered(source, tmp_path / "out.jsonl", hf)
    assert [row["filter"]["line"] for row in lines(tmp_path / "out.jsonl")] == [1, 2, 3, 5, 6, 7]
    (aside,) = lines(tmp_path / "out.rejected.jsonl")
    assert aside["line"] == 4
    assert aside["reason"].startswith("it cannot be filtered: ")


@pytest.mark.parametrize("text", ["", "👍 犬 собака", "hello there", "\ud800"])
def test_texts_that_say_nothing(source, tmp_path, hf, text):
    source.write_text(json.dumps({"image": "0.png", "caption": text}) + "\n")
    filtered(source, tmp_path / "out.jsonl", hf)
    found = [*lines(tmp_path / "out.jsonl"), *lines(tmp_path / "out.rejected.jsonl")]
    assert len(found) == 1
    assert found[0].get("caption", text) == text


def test_the_same_command_again_does_nothing(source, tmp_path, hf):
    filtered(source, tmp_path / "out.jsonl", hf)
    before = {path: path.read_bytes() for path in tmp_path.glob("out*")}
    tally = filtered(source, tmp_path / "out.jsonl", work=lambda batches: [pytest.fail(str(b)) for b in batches])
    assert {path: path.read_bytes() for path in tmp_path.glob("out*")} == before
    assert (tally.rows, tally.changed_rows > 0) == (24, True)


def test_rows_that_are_added_later_are_done_later(source, tmp_path, hf):
    whole = source.read_bytes().splitlines(keepends=True)
    source.write_bytes(b"".join(whole[:5]))
    filtered(source, tmp_path / "out.jsonl", hf)
    source.write_bytes(b"".join(whole[:9]))
    filtered(source, tmp_path / "out.jsonl", hf)
    assert [row["filter"]["line"] for row in lines(tmp_path / "out.jsonl")] == list(range(1, 10))


def test_what_was_set_aside_can_be_tried_again(source, tmp_path, hf):
    filtered(source, tmp_path / "out.jsonl", hf)
    Image.new("RGB", (96, 96)).save(source.parent / "none.png")
    filtered(source, tmp_path / "out.jsonl", hf)
    assert len(lines(tmp_path / "out.rejected.jsonl")) == 8
    filtered(source, tmp_path / "out.jsonl", hf, retry=True)
    assert [row["filter"]["line"] for row in lines(tmp_path / "out.jsonl")][-1] == 26
    assert len(lines(tmp_path / "out.rejected.jsonl")) == 7


def test_outputs_that_cannot_be_gone_on_with(source, tmp_path, hf):
    out = tmp_path / "out.jsonl"
    filtered(source, out, hf)
    with pytest.raises(
        ValueError, match=r"other settings, says out\.settings\.json \(threshold was 0\.9 and is 0\.5\)"
    ):
        filtered(source, out, hf, threshold=0.5)
    text = source.read_text(errors="surrogateescape")
    source.write_text(text.replace("row 5", "row 555"), errors="surrogateescape")
    with pytest.raises(ValueError, match="line 6 of the input is not what it was"):
        filtered(source, out, hf)
    (tmp_path / "mine.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="is there already and not from this command"):
        filtered(source, tmp_path / "mine.jsonl", hf)


def test_only_one_process_writes(source, tmp_path, hf):
    held = tmp_path / "held.jsonl"
    module = "vtokens.filter.datasets.output_log"
    hold = f"from {module} import OutputLog; x = OutputLog({str(held)!r}, {{}}); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="another process is writing"):
            filtered(source, held, hf)
        other.communicate(b"\n")


def test_an_unfinished_last_line_is_cut_off_and_done_again(source, tmp_path, hf):
    out = tmp_path / "out.jsonl"
    filtered(source, out, hf)
    whole = out.read_bytes()
    out.write_bytes(whole[:-20])
    filtered(source, out, hf)
    again = lines(out)
    assert [row["filter"]["line"] for row in again] == list(range(1, 25))
    assert again[:-1] == [json.loads(text) for text in whole.splitlines()[:-1]]
    assert again[-1]["caption"] == json.loads(whole.splitlines()[-1])["caption"]


def test_a_damaged_output_is_named(source, tmp_path, hf):
    out = tmp_path / "out.jsonl"
    filtered(source, out, hf)
    out.write_bytes(b"{\n" + out.read_bytes())
    with pytest.raises(ValueError, match=r"out\.jsonl, line 1, is damaged"):
        filtered(source, out, hf)


def test_what_can_be_known_before_a_model_is_loaded(source, tmp_path):
    assert check_files(source, source.parent, tmp_path / "out.jsonl", "flag") == 32
    (tmp_path / "empty.jsonl").write_text("\n \n")
    for arguments, error, says in (
        ((tmp_path / "none.jsonl", tmp_path, tmp_path / "o", "flag"), OSError, r"none\.jsonl"),
        ((tmp_path / "empty.jsonl", tmp_path, tmp_path / "o", "flag"), ValueError, "has no rows"),
        ((source, tmp_path / "none", tmp_path / "o", "flag"), OSError, "none is no folder"),
        ((source, tmp_path, tmp_path / "none" / "o", "flag"), OSError, "none is no folder"),
        ((source, tmp_path, source, "flag"), ValueError, "is the input"),
        ((source, tmp_path, tmp_path / "o", "regenerate"), ValueError, "written again"),
        ((source, tmp_path, tmp_path / "o", "redac"), ValueError, "Did you mean 'redact'"),
    ):
        with pytest.raises(error, match=says):
            check_files(*arguments)


def test_an_action_without_a_threshold_is_refused_before_a_row_is_read(source, tmp_path, hf):
    with pytest.raises(ValueError, match="threshold"):
        Worker(hf, source.parent, "redact")
    with pytest.raises(ValueError, match="batch_size=0"):
        filtered(source, tmp_path / "out.jsonl", hf, batch_size=0)


def test_a_full_disk_keeps_what_was_done(source, tmp_path, hf):
    """The file may not grow beyond a few rows: the error says so, and the rows before it are whole."""
    resource = pytest.importorskip("resource")
    process = os.fork()
    out = tmp_path / "out.jsonl"
    if process == 0:  # the limit holds for a process, so it is another one
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
            filtered(source, out, hf, batch_size=1)
        except OSError as error:
            code = 0 if "every row so far is kept" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    kept = lines(out)
    assert 0 < len(kept) < 24
    filtered(source, out, hf)
    assert lines(out)[: len(kept)] == kept
    assert [row["filter"]["line"] for row in lines(out)] == list(range(1, 25))


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path, uninterrupted):
    source, out, moments = data_set(tmp_path / "data"), tmp_path / "out.jsonl", random.Random(1)
    before = 0
    for after in (4, 9, 15):
        process = started(source, out)
        deadline = time.monotonic() + 120
        while len(out.read_bytes().splitlines() if out.exists() else []) < after and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.join()
        there = out.read_bytes().count(b"\n")
        assert before < there < 24  # it went on from where it was, and was not done
        before = there
    process = started(source, out)
    process.join(120)
    assert process.exitcode == 0
    rows = lines(out)
    assert [row["filter"]["line"] for row in rows] == list(range(1, 25))
    assert [row["caption"] for row in rows] == [row["caption"] for row in uninterrupted[0]]
    assert uninterrupted[1] == lines(tmp_path / "out.rejected.jsonl") == []
    assert not (tmp_path / "out.rejected.jsonl").exists()
    assert all(row.prompt == PROMPT for row in read_rows(source, PROMPT))


def test_the_page_names_every_field_that_is_written(source, tmp_path, hf):
    page = (Path(__file__).parents[2] / "docs" / "filter-data-sets.md").read_text(encoding="utf-8")
    filtered(source, tmp_path / "out.jsonl", hf)
    row = lines(tmp_path / "out.jsonl")[1]
    for name in [*row["filter"], *row["filter"]["mentions"][0], *ACTIONS]:
        assert f"`{name}`" in page or f"--action {name}" in page
