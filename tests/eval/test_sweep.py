"""A sweep from settings to results, through genuine lmms-eval and the embedded model; and how it can be refused."""

import dataclasses
import errno
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
from lmms_eval.tasks import TaskManager

import vtokens
from tests.eval import made
from tests.eval.sweeping import TOTAL, answered, lasting, lines, small, started
from vtokens.cli import main
from vtokens.eval import suite
from vtokens.eval.metrics import mcnemar, wilson
from vtokens.scenes import examples, score
from vtokens.scenes.evaluation import answer

pytestmark = pytest.mark.filterwarnings("default::FutureWarning", "default::DeprecationWarning")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A small sweep over two seeds: its folder and its outcome."""
    out = tmp_path_factory.mktemp("swept") / "out"
    return out, small(out, seeds=2)


@pytest.fixture
def copied(swept, tmp_path):
    """A folder of the same sweep that a test may spoil."""
    return shutil.copytree(swept[0], tmp_path / "copied")


@pytest.fixture(scope="module")
def odd_tasks(tmp_path_factory):
    """Tasks that cannot be asked."""
    return made.tasks(
        tmp_path_factory.mktemp("odd") / "made",
        empty={"n": 0},
        blind={"pictures": False},
        rounds={"kind": "generate_until_multi_round"},
    )


def test_answers_are_those_of_the_model_without_lmms_eval(swept, shipped):
    rows = lines(swept[0] / "samples.jsonl")
    assert len(rows) == 2 * TOTAL
    asked = examples("test", 12, 1, kinds=["pope_random"])
    with vtokens.attach(shipped[0], "fastv(keep=0.25)"):
        wanted = answer(*shipped, asked, batch_size=1)
    found = [row for row in rows if (row["cell"], row["task"]) == ("fastv@0.25#s1", "scenes_pope_random")]
    assert [(row["doc"], row["question"], row["target"]) for row in found] == [
        (number, example.question, example.answer) for number, example in enumerate(asked)
    ]
    assert [row["text"] for row in found] == wanted
    assert [row["correct"] for row in found] == [score(text, e) for text, e in zip(wanted, asked, strict=True)]
    assert [row["metrics"]["accuracy"] for row in found] == [float(row["correct"]) for row in found]


def test_results_are_what_the_samples_say(swept):
    samples = pandas.read_json(swept[0] / "samples.jsonl", lines=True)
    results = pandas.read_json(swept[0] / "results.jsonl", lines=True)
    assert len(results) == 2 * 3 * (1 + 5)  # seeds x cells x metrics
    first = samples.encode + samples.prefill
    for row in results.itertuples():
        where = (samples.cell == row.cell) & (samples.task == row.task)
        mine = samples[where]
        assert (row.n, row.kept_tokens) == (12, pytest.approx(mine.kept_tokens.mean()))
        assert row.flops_ratio == pytest.approx(mine.flops.sum() / mine.flops_full.sum())
        assert row.kv_ratio == pytest.approx(mine.kv_bytes.sum() / mine.kv_bytes_full.sum())
        assert row.decode == pytest.approx(mine.decode.mean())
        plain = (samples.cell == f"none#s{row.seed}") & (samples.task == row.task)
        assert row.speedup == pytest.approx(first[plain].median() / first[where].median())
        if row.metric in ("exact", "accuracy"):
            expected = wilson(int(mine.correct.sum()), 12)
            assert (row.value, row.low, row.high) == pytest.approx(dataclasses.astuple(expected)[:3])
        assert row.versions["lmms_eval"] == "0.7.3"
        assert row.hardware["threads"] == 1
        assert "averaged over all decoder layers" in row.budget


def test_the_summary_is_over_the_documents_of_both_seeds(swept):
    samples = lines(swept[0] / "samples.jsonl")
    summary = pandas.read_json(swept[0] / "summary.json")
    assert len(summary) == 3 * (1 + 5)
    for row in summary.itertuples():
        assert row.seeds == 2
        cell = row.name if math.isnan(row.keep) else f"{row.name}@{row.keep}"
        mine = [s for s in samples if s["cell"].rpartition("#")[0] == cell and s["task"] == row.task]
        plain = [s for s in samples if s["cell"].startswith("none#") and s["task"] == row.task]
        if row.metric in ("exact", "accuracy"):
            assert row.value == pytest.approx(statistics.fmean(s["correct"] for s in mine))
            raw = mcnemar([s["correct"] for s in plain], [s["correct"] for s in mine]).p_value
            assert (row.name == "none") == math.isnan(row.p_value)
            assert row.name == "none" or raw - 1e-9 <= row.p_value <= 1  # Holm makes none smaller
        else:
            assert math.isnan(row.p_value)


def test_a_finished_sweep_is_scored_again_without_asking_anything(copied):
    before = {path: path.read_bytes() for path in (copied / "answers").iterdir()}
    wanted = lasting(copied)
    (copied / "results.jsonl").unlink()
    small(copied, seeds=2)
    assert {path: path.read_bytes() for path in (copied / "answers").iterdir()} == before
    assert lasting(copied) == wanted


def test_a_sweep_grows_by_cells_and_keeps_the_others(copied):
    before = lasting(copied)
    outcome = small(copied, seeds=3, strategies=["none", "random", "fastv", "cls"])
    assert answered(copied) == 3 * 4 / 3 * TOTAL
    after = lasting(copied)
    assert [row for row in after["samples.jsonl"] if row in before["samples.jsonl"]] == before["samples.jsonl"]
    assert after["manifest.json"]["id"] == before["manifest.json"]["id"]
    assert {*after["manifest.json"]["tasks"]["scenes_vqa"]["hash"]} == {"0", "1", "2"}
    assert len(outcome.results) == 3 * 4 * 6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"limit": 11}, "settings.limit is 12 there and 11 here"),
        ({"batch_size": 5}, "settings.batch_size is 4 there and 5 here"),
        ({"dtype": "bfloat16"}, "model.dtype is 'float32' there and 'bfloat16' here"),
        ({"attn_implementation": "eager"}, "model.attn_implementation is 'sdpa' there and 'eager' here"),
        ({"tasks": ["scenes_vqa"]}, "tasks is 'scenes_vqa,scenes_pope_random' there and 'scenes_vqa' here"),
        ({"strategies": ["none", "fastv"]}, "the cell 'random@0.25#s0' is there and not here"),
        ({"keeps": [0.5]}, "the cell 'random@0.25#s0' is there and not here"),
        ({"seeds": 1}, "the cell 'none#s1' is there and not here"),
    ],
)
def test_a_folder_of_another_sweep_names_the_setting(copied, changes, says):
    wanted = lasting(copied)
    with pytest.raises(ValueError, match="holds another sweep") as error:
        small(copied, **{"seeds": 2, **changes})
    assert says in str(error.value)
    assert lasting(copied) == wanted


def test_a_folder_written_by_other_versions_or_hardware_is_another_sweep(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["versions"]["torch"] = "2.12.0"
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"versions.torch is '2.12.0' there"):
        small(copied, seeds=2)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"'thesis.tex' but no manifest.json"):
        small(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["thesis.tex"]


def test_metrics_that_are_no_number_are_null_counted_and_named(tmp_path, capsys):
    include = made.tasks(tmp_path / "made", mini={})
    arguments = ["--tasks", "mini", "--strategies", "none,cls(keep=0.5)", "--out", str(tmp_path / "out")]
    main(["eval", *arguments, "--include-path", str(include), "--batch-size", "3"])
    captured = capsys.readouterr()
    assert "2 of 8 results are no number: none#s0 mini undefined, cls(keep=0.5)#s0 mini undefined" in captured.err
    assert f"results: {tmp_path / 'out'}" in captured.out
    rows = {(row["cell"], row["metric"]): row for row in lines(tmp_path / "out" / "results.jsonl")}
    assert [rows["none#s0", "undefined"][name] for name in ("value", "low", "high", "n")] == [None, None, None, 6]
    right = rows["none#s0", "right"]["value"]
    assert (rows["none#s0", "half"]["value"], rows["none#s0", "doubled"]["value"]) == (right / 2, 2 * right)
    sample = lines(tmp_path / "out" / "samples.jsonl")[0]
    assert sample["metrics"] == {
        "right": sample["metrics"]["right"],
        "half": sample["metrics"]["right"] / 2,
        "doubled": None,  # a record, which only its aggregation reads
        "undefined": None,
    }
    assert sample["correct"] is bool(sample["metrics"]["right"])


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"tasks": ["scenes_vqq"]}, ValueError, "unknown task 'scenes_vqq'. Did you mean 'scenes_vqa'"),
        ({"tasks": ["pop"]}, ValueError, "Did you mean 'pope'"),
        ({"tasks": ["scenes_vqa", "scenes_vqa"]}, ValueError, "'scenes_vqa' is asked for twice"),
        ({"tasks": ["scenes_pope_random", "scenes_pope"]}, ValueError, "the second time by 'scenes_pope'"),
        # lmms-eval tries five times to load it, two seconds apart.
        pytest.param({"tasks": ["empty"]}, ValueError, "the task 'empty' has no samples", marks=pytest.mark.slow),
        ({"tasks": ["blind"]}, ValueError, "the task 'blind' has no images or videos in the 6 samples"),
        ({"tasks": ["rounds"]}, ValueError, "the task 'rounds' is of type 'generate_until_multi_round'"),
        ({"include": ["nowhere"]}, FileNotFoundError, "no such folder of tasks: 'nowhere'"),
        ({"limit": 0}, ValueError, "limit=0 is not allowed"),
        ({"batch_size": 0}, ValueError, "batch_size=0 is not allowed"),
        ({"strategies": ["fastw"]}, ValueError, "Did you mean 'fastv'"),
        ({"strategies": ["fastv(layer=99)"]}, ValueError, "layer=99 is out of range"),
        ({"model": "scene-lava"}, ValueError, "Did you mean 'scenes-llava'"),
        ({"model": "owner/nothing"}, OSError, "owner/nothing"),
        ({"dtype": "float33"}, ValueError, "Did you mean 'float32'"),
    ],
)
def test_what_cannot_be_a_sweep(odd_tasks, tmp_path, changes, kind, says):
    with pytest.raises(kind) as error:
        small(tmp_path / "out", **{"include": [odd_tasks], **changes})
    assert says in str(error.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_count_above_what_the_first_picture_has_is_told_before_anything_is_asked(tmp_path):
    with pytest.raises(
        ValueError, match=r"^cls@500#s0 fails at the first document of scenes_vqa: keep=500 .* 144 visual"
    ):
        small(tmp_path, tasks=["scenes_vqa"], strategies=["none", "cls"], keeps=[50, 500])
    assert answered(tmp_path) == 0
    assert not (tmp_path / "manifest.json").exists()


def test_a_cell_that_fails_can_be_left_out_and_the_rest_goes_on(tmp_path):
    """The second picture has fewer tokens than the first."""
    include = made.tasks(tmp_path / "made", sized={"n": 2, "sizes": [(64, 128), (112, 112)]})
    wanted = {"model": "scenes-qwen", "tasks": ["sized"], "strategies": ["none", "random"], "include": [include]}
    out = tmp_path / "out"
    small(out, **wanted, batch_size=1)
    seen = {row["doc"]: row["visual_tokens"] for row in lines(out / "answers" / "none#s0.rank0.jsonl")}
    assert seen[0] > seen[1]
    says = (
        rf"'sized' failed under random@{seen[0]}#s0: keep={seen[0]} asks .* {seen[1]} .*; every answer so far is kept"
    )
    with pytest.raises(ValueError, match=says):
        small(out, **wanted, batch_size=1, keeps=[0.25, seen[0]])
    with pytest.raises(ValueError, match=r"or delete .* to leave it out") as error:
        small(out, **wanted, batch_size=1, keeps=[0.25, seen[1]])
    Path(re.search(r"or delete (.*) to leave it out", str(error.value))[1]).unlink()
    small(out, **wanted, batch_size=1, keeps=[0.25, seen[1]])
    assert answered(out) == 6


def test_a_name_that_lmms_eval_cannot_have_is_refused_without_reading_its_tasks():
    suite.check_written(["pope", "mme"], (), ())
    with pytest.raises(ValueError, match=r"unknown task 'no_such_one'.*lmms-eval has some 2,000 more"):
        suite.check_written(["pope", "no_such_one"], (), ())


@pytest.mark.slow  # lmms-eval reads all its files
def test_every_name_that_lmms_eval_has_is_found_in_its_files():
    names = TaskManager().all_tasks
    suite.check_written([*names[::25], "verl_reasoning"], (), ())  # what names the last is included from another file


@pytest.mark.slow  # lmms-eval tries the failing function five times, two seconds apart
def test_a_task_whose_scoring_fails_is_named_and_the_answers_are_kept(tmp_path):
    include = made.tasks(tmp_path / "made", faulty={"n": 2, "score": "broken"})
    says = "'faulty' failed under none#s0: KeyError: 'nothing of the kind'; every answer so far is kept"
    with pytest.raises(RuntimeError, match=says):
        small(tmp_path / "out", tasks=["faulty"], include=[include])
    assert answered(tmp_path / "out") == 2


def test_where_no_bar_can_be_drawn_finished_cells_are_reported(tmp_path, capsys):
    small(tmp_path, tasks=["scenes_vqa"], strategies=["none", "cls"], limit=4, show=True)
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines() if "#s0:" in line] == [
        "none#s0: 4 of 8 answers",
        "cls@0.25#s0: 8 of 8 answers",
    ]


def test_without_lmms_eval_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    with pytest.raises(ImportError, match=r"'vtokens\[eval-light\]'.*, then pip install --no-deps lmms-eval"):
        small(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        small(tmp_path / "file" / "out")
    with pytest.raises(OSError, match="proc"):
        small("/proc/vtokens")


def test_two_sweeps_into_one_folder(tmp_path):
    first = started(tmp_path / "out")
    try:
        while not (tmp_path / "out" / "answers").exists() and first.is_alive():
            time.sleep(0.01)
        with pytest.raises(ValueError, match="another process is sweeping into"):
            small(tmp_path / "out")
    finally:
        first.kill()
        first.join()


def test_files_that_may_not_grow_leave_what_was_answered_and_say_how_to_go_on(tmp_path):
    out = tmp_path / "out"
    process = started(out, most=9_000)
    process.join(120)
    assert process.exitcode == 1
    assert 0 < answered(out) < TOTAL
    told = (tmp_path / "out.error").read_text()
    assert f"[Errno {errno.EFBIG}]" in told
    assert "answers are kept" in told
    assert "run the same command again" in told
    small(out)
    assert answered(out) == TOTAL


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk(tmp_path):
    (disk := tmp_path / "disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(OSError, match=r"No space left on device: .* run the same command again") as error:
            small(disk / "out")
        assert error.value.errno == errno.ENOSPC
        kept = answered(disk / "out")
        assert 0 < kept < TOTAL
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        small(disk / "out")
        assert answered(disk / "out") == TOTAL
        assert (disk / "out" / "summary.json").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
