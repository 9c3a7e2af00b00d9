"""Reports of odd sweeps, each opened in a real browser: nothing breaks, and what is missing is said."""

import json
import re

import pytest

from tests.eval import folders
from tests.eval.browser import opened
from vtokens import report
from vtokens.cli import main

LONG = "cls(keep=0.5)+fastv(keep=0.5, layer=3)"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:playwright")


@pytest.fixture
def look(browser, tmp_path):
    """Writes the report, opens it on a phone, and returns the words of each section."""

    def _look(folder):
        with opened(browser, report.write(folder), 390) as seen:
            seen.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
            assert seen.run("document.documentElement.scrollWidth") <= 390
            assert seen.complaints == []
            words = seen.run("[...document.querySelectorAll('section')].map((part) => [part.id, part.innerText])")
            assert "nan" not in seen.run("document.body.innerText").lower().split()
            return {section: " ".join(text.split()) for section, text in words}

    return _look


def test_one_cell(shipped, look, tmp_path):
    words = look(folders.write(tmp_path / "x", shipped[0], ["cls"], [0.5], 1, ["scenes_vqa"]))
    assert "This sweep has no none cell, so nothing can be given in percent of it" in words["relative"]
    assert "cls 0.5 72.0" in words["relative"]
    assert "%" not in words["relative"].partition("exact")[2].replace("50%", "")
    assert "There is nothing to compare with" in words["summary"]
    assert "No speed-ups were measured" in words["speed"]
    assert "no none cell to compare answers with" in words["flips"]


@pytest.mark.parametrize(("questions", "claims"), [(4, False), (160, True)])
def test_what_a_small_sweep_claims(shipped, tmp_path, questions, claims):
    folder = folders.write(
        tmp_path / "x", shipped[0], ["none", "cls"], [0.5], 1, ["scenes_vqa"], questions=questions, shown=0
    )
    page = report.write(folder).read_text()
    assert ("Too few questions" in page) != claims
    assert ("No significant loss" in page) == claims
    assert ("95% of none kept" in page) == claims


def test_none_alone(shipped, look, tmp_path):
    words = look(folders.write(tmp_path / "x", shipped[0], ["none"], [], 1, ["scenes_vqa"]))
    assert "100.0%" in words["relative"]
    assert "There is nothing to compare with" in words["summary"]
    assert "No question was answered both by none and under a strategy" in words["flips"]


def test_without_samples_and_pictures(shipped, look, tmp_path):
    folder = folders.write(tmp_path / "x", shipped[0], ["none", "cls"], [0.5], 1, ["scenes_vqa"], shown=0)
    assert "holds no pictures" in look(folder)["examples"]
    (folder / "samples.jsonl").unlink()
    words = look(folder)
    assert "no samples.jsonl beside the results" in words["flips"]
    assert "holds no pictures" in words["examples"]
    assert "cls 0.5" in words["relative"]
    assert not (folder / "plots" / "flips.png").exists()  # that of the first report is gone


def test_figures_that_are_none(shipped, look, tmp_path):
    folder = folders.write(tmp_path / "x", shipped[0], ["none", "cls", "fastv"], [0.5], 1, ["scenes_vqa"])
    summary = json.loads((folder / "summary.json").read_text())
    for row in summary:
        if row["name"] == "cls":
            row.update(value=None, low=None, high=None, p_value=None)
    (folder / "summary.json").write_text(json.dumps(summary))
    costs = ("kept_tokens", "visual_tokens", "kv_ratio", "flops_ratio", "encode", "select", "prefill", "decode")
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for row in rows:
        if row["name"] == "cls":
            row.update(dict.fromkeys(costs), speedup=None)
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = look(folder)
    assert "cls 0.5 – – –" in words["relative"]
    assert "cls" not in words["time"]
    assert "cls 0.5 –" in words["memory"]
    assert "– to –" in words["all"]


def test_no_figure_at_all(shipped, look, tmp_path):
    folder = folders.write(tmp_path / "x", shipped[0], ["none", "cls"], [0.5], 1, ["scenes_vqa"])
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps([{**row, "value": None, "low": None} for row in summary]))
    assert "No setting has both a figure and a token count" in look(folder)["tokens"]


def test_sixty_settings_with_long_specs(shipped, look, tmp_path):
    names = ["none", "random", "uniform", "cls", "todre", *(f"fastv(layer={n})" for n in range(1, 8))]
    names += [LONG, "uniform(keep=0.75)+cls(keep=0.75)+fastv(keep=0.5, layer=2)+todre(keep=0.5)"]
    folder = folders.write(
        tmp_path / "x", shipped[0], names, [0.75, 0.5, 0.25, 0.1, 64], 1, ["scenes_vqa", "scenes_caption"], 8
    )
    words = look(folder)
    assert len(re.findall(r"\d%", words["relative"])) >= 58
    assert "todre(keep=0.5)" in words["relative"]
    assert "Best at keep 64".upper() in words["summary"].upper()
    assert (folder / "report.html").stat().st_size < 4_000_000


def test_foreign_text_stays_text(shipped, look, tmp_path):
    folder = folders.write(tmp_path / "x", shipped[0], ["none", "cls"], [0.1], 1, ["scenes_vqa"])
    evil = "<script>document.body.innerHTML = ''</script><img src=x onerror=alert(1)>"
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for row in rows:
        row.update(question=evil, target=[evil, 3], text=evil + row["text"])
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = look(folder)
    assert evil in words["flips"]
    assert f"{evil}, 3" in words["examples"]


def test_the_command_says_where_the_page_is_or_what_is_missing(shipped, capsys, tmp_path):
    folder = folders.write(tmp_path / "x", shipped[0], ["none", "cls"], [0.5], 1, ["scenes_vqa"])
    main(["report", str(folder), "--out", str(tmp_path / "there")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "there" / "report.html")
    assert (tmp_path / "there" / "report.html").stat().st_size > 50_000
    assert not (folder / "report.html").exists()
    for path, says in (
        (tmp_path, "manifest.json, results.jsonl, summary.json missing"),
        (tmp_path / "z", "Did you mean"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["report", str(path)])
        assert stop.value.code == 2
        assert says in capsys.readouterr().err
