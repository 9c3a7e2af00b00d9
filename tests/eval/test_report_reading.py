"""Reading results folders: what they say, and what is said of folders that hold no results or damaged ones."""

import json
import math
import shutil
import subprocess
import sys
import textwrap

import pytest

from tests.eval import folders
from vtokens.report import answers, reading
from vtokens.report.results import geometric, key, mean, order


@pytest.fixture(scope="module")
def original(shipped, tmp_path_factory):
    tasks = ["scenes_vqa", "scenes_caption"]
    return folders.write(tmp_path_factory.mktemp("reading") / "x", shipped[0], ["none", "cls"], [0.5, 8, 0.1], 2, tasks)


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "x")
    return tmp_path / "x"


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_a_report_is_made_without_torch(folder):
    """In a fresh interpreter: the page and its plots come from files, and Pillow draws what was kept."""
    code = """
        import sys
        from vtokens.cli import main
        main(["report", sys.argv[1]])
        print("imported:", *sorted(set(sys.modules) & {"torch", "transformers", "tokenizers", "safetensors"}))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(folder / "report.html"), "imported:"]
    assert (folder / "plots" / "kept.png").exists()


def test_settings_are_pooled_over_seeds_in_the_order_of_the_sweep(folder):
    results = reading.read_results(folder)
    assert [setting.label for setting in results.settings] == ["none", "cls 0.5", "cls 0.1", "cls 8"]
    assert results.baseline is results.settings[0]
    assert results.settings[3].specs == ("cls(keep=8)",)
    assert [(m.task, m.name, m.better, m.share) for m in results.metrics] == [
        ("scenes_vqa", "exact", 1, True),
        ("scenes_caption", "chair_s", -1, True),
        ("scenes_caption", "length", 0, False),
        ("scenes_caption", "exact", 1, True),
    ]
    assert [m.name for m in results.headlines] == ["exact", "chair_s"]
    assert results.cells["cls@8#s1"] == ("cls@8", 1)
    assert results.notes == ()


def test_figures_are_those_of_the_rows(folder):
    results = reading.read_results(folder)
    setting = results.settings[2]
    summary = json.loads((folder / "summary.json").read_text())
    row = next(r for r in summary if (r["name"], r["keep"], r["task"]) == ("cls", 0.1, "scenes_vqa"))
    score = setting.scores["scenes_vqa", "exact"]
    assert vars(score) == {name: row[name] for name in ("value", "low", "high", "n", "seeds", "p_value")}
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    pair = [r for r in rows if (r["name"], r["keep"], r["task"]) == ("cls", 0.1, "scenes_caption")]
    assert len(pair) == 2 * 3  # seeds and metrics: each metric repeats the costs of its cell
    first, second = pair[0], pair[-1]
    cost = setting.costs["scenes_caption"]
    assert cost.prefill == pytest.approx((first["prefill"] + second["prefill"]) / 2)
    assert cost.speedup == pytest.approx(math.sqrt(first["speedup"] * second["speedup"]))
    assert (cost.slowest, cost.fastest) == tuple(sorted([first["speedup"], second["speedup"]]))
    both = setting.cost()
    assert both.encode == pytest.approx((cost.encode + setting.costs["scenes_vqa"].encode) / 2)


def test_nulls_and_what_is_missing_are_gaps(folder):
    def blank(rows):
        rows[0].update(value=None, low=None, p_value="none")
        del rows[0]["high"]

    change(folder / "summary.json", blank)
    text = (folder / "results.jsonl").read_text()
    (folder / "results.jsonl").write_text(text.replace('"speedup"', '"kept_back"'))
    results = reading.read_results(folder)
    score = results.baseline.scores["scenes_vqa", "exact"]
    assert all(map(math.isnan, (score.value, score.low, score.high, score.p_value)))
    assert math.isnan(results.settings[1].cost().speedup)


def test_a_torn_line_is_left_out_and_told(folder):
    for name in ("results.jsonl", "samples.jsonl"):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-20])
    results = reading.read_results(folder)
    assert len(results.notes) == 1
    assert "1 of 32 lines of results.jsonl could not be read" in results.notes[0]
    found = answers.read_answers(results)
    assert (found.unread, found.count) == (1, 4 * 2 * 2 * 20 - 1)


def test_cells_without_results_are_told(folder):
    change(
        folder / "manifest.json", lambda m: m["cells"].append({**m["cells"][0], "cell": "todre#s0", "name": "todre"})
    )
    assert "1 of 9 cells have no result yet: todre#s0" in reading.read_results(folder).notes


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        (["manifest.json"], "is no results folder: manifest.json missing"),
        (["manifest.json", "results.jsonl", "summary.json"], "manifest.json, results.jsonl, summary.json missing"),
        (["summary.json"], "is no results folder: summary.json missing"),
    ],
)
def test_what_is_missing_is_named(folder, gone, says):
    for name in gone:
        (folder / name).unlink()
    with pytest.raises(ValueError, match=says):
        reading.read_results(folder)


def test_an_unfinished_sweep_is_told_apart(folder):
    for name in ("results.jsonl", "summary.json"):
        (folder / name).unlink()
    (folder / "answers").mkdir()
    with pytest.raises(ValueError, match=r"has not finished.*run the same `vtokens eval` command again"):
        reading.read_results(folder)


def test_a_folder_that_is_not_there(folder):
    with pytest.raises(ValueError, match=r"unknown results folder .*Did you mean '.*/x'"):
        reading.read_results(folder.parent / "y")
    with pytest.raises(ValueError, match="there is no folder"):
        reading.read_results(folder / "deeper" / "still")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("results.jsonl", "", "results.jsonl holds no result"),
        ("summary.json", "[]", "summary.json holds no result"),
        ("summary.json", "[{]", "summary.json is damaged"),
        ("manifest.json", "[]", "is not the manifest of a sweep"),
        ("manifest.json", '{"schema": 7}', "has schema 7"),
    ],
)
def test_damaged_files_are_named(folder, name, text, says):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=says):
        reading.read_results(folder)


def test_questions_that_seeds_share_count_once(shipped, tmp_path):
    apart = folders.write(tmp_path / "apart", shipped[0], ["none", "cls"], [0.1], 2, ["scenes_vqa"])
    same = folders.write(tmp_path / "same", shipped[0], ["none", "cls"], [0.1], 2, ["scenes_vqa"], same=True)
    found = {path.name: answers.read_answers(reading.read_results(path)) for path in (apart, same)}
    assert [(len(a.questions), a.count) for a in found.values()] == [(40, 80), (20, 80)]
    rows = [json.loads(line) for line in (same / "samples.jsonl").read_text().splitlines()]
    first = {(r["cell"], r["doc"]): r["text"] for r in rows if r["cell"].endswith("#s0")}
    for question in found["same"].questions:
        assert question.given["cls@0.1"].text == first["cls@0.1#s0", question.doc]


def test_answers_keep_cells_where_there_is_a_picture(folder):
    found = answers.read_answers(reading.read_results(folder))
    shown = [question for question in found.questions if question.picture]
    assert len(shown) == 2 * 2 * 6
    assert {question.doc for question in shown} == set(range(6))
    assert all(len(question.given["cls@8"].kept) == 8 for question in shown)
    assert all(given.kept is None for q in found.questions if not q.picture for given in q.given.values())
    assert found.kv_bytes["none"] == (1_200_000, 1_200_000)
    assert found.batch == 4


def test_means_pass_over_gaps():
    assert mean([1.0, float("nan"), 3.0]) == 2.0
    assert geometric([2.0, 8.0, float("nan"), 0.0]) == pytest.approx(4.0)
    assert math.isnan(mean([]))
    assert math.isnan(geometric([float("nan")]))


def test_counts_and_shares_are_told_apart():
    assert key("cls", 1) != key("cls", 1.0)
    assert sorted([None, 8, 0.1, 64, 0.5], key=order) == [0.5, 0.1, 64, 8, None]
