"""`vtokens filter` as a user meets it, on the embedded model."""

import csv
import json
import re
import subprocess
import sys

import pytest

from tests.filter.filtering import data_set, lines
from vtokens import scenes
from vtokens.cli import main

PLAIN = ("--extractor", "scenes", "--filter", "none")  # scores as they are, whatever ships
ORDINARY = (*PLAIN, "--threshold", "0.9")


@pytest.fixture
def source(tmp_path):
    return data_set(tmp_path / "data", rows=6)


def run(capsys, source, *arguments, **changes):
    """(exit code, stdout, stderr)"""
    files = {"input": source, "images": source.parent, "output": source.parent.parent / "out.jsonl", **changes}
    try:
        main(["filter", *(part for name, path in files.items() for part in (f"--{name}", str(path))), *arguments])
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_a_data_set_is_filtered_and_summed_up(capsys, source, tmp_path):
    with source.open("a") as file:
        file.write('{"image": "none.png", "caption": "red circle"}\n')
    code, out, err = run(capsys, source, *ORDINARY, "--action", "redact")
    rows = lines(tmp_path / "out.jsonl")
    flagged = sum(mention["flagged"] for row in rows for mention in row["filter"]["mentions"])
    assert code == 0
    assert f"6 rows in {tmp_path / 'out.jsonl'}: {flagged} of " in out
    assert f"1 rows set aside in {tmp_path / 'out.rejected.jsonl'}: the image does not open (1)" in err
    assert flagged >= 3
    settings = json.loads((tmp_path / "out.settings.json").read_text())
    assert (settings["model"], settings["action"], settings["threshold"]) == ("scenes-llava", "redact", 0.9)
    assert run(capsys, source, *ORDINARY, "--action", "redact")[1] == out  # done already: the same summary


@pytest.mark.parametrize(
    ("changes", "arguments", "says"),
    [
        ({"input": "none.jsonl"}, [], "none.jsonl"),
        ({"images": "no/such/folder"}, [], "no/such/folder is no folder"),
        ({"output": "no/such/folder/out.jsonl"}, [], "no/such/folder is no folder"),
        ({}, ["--action", "redact"], "needs a threshold"),
        ({}, ["--action", "regenerate"], "written again"),
        ({}, ["--batch-size", "0"], "'0' is not allowed"),
        ({}, ["--threshold", "1.5"], "--threshold 1.5 is not allowed"),
        ({}, ["--workers", "2"], "--workers is for --ray"),
        ({}, ["--model", "scene-lava"], "Did you mean 'scenes-llava'?"),
        ({}, ["--filter", "no.json"], "no.json"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(capsys, source, changes, arguments, says):
    code, out, err = run(capsys, source, *PLAIN, *arguments, **changes)
    assert (code, out) == (2, "")
    assert err.startswith("vtokens: error: ")
    assert err.count("\n") == 1
    assert says in err


def test_an_error_can_be_mended_with_the_same_output(capsys, source):
    assert run(capsys, source, *PLAIN, "--action", "redact")[0] == 2
    assert run(capsys, source, *ORDINARY, "--action", "redact")[0] == 0


def test_an_empty_input(capsys, source):
    source.write_text("")
    assert "has no rows" in run(capsys, source)[2]


def test_an_input_of_which_nothing_can_be_filtered(capsys, source):
    source.write_text(source.read_text().replace('"image"', '"picture"'))
    code, out, err = run(capsys, source, *ORDINARY)
    assert (code, out) == (2, "")
    assert "no row could be filtered" in err
    assert "no field 'image'" in err


@pytest.mark.parametrize("form", ["array", "array of lines", "csv"])
def test_another_form_than_json_lines_is_told_with_what_makes_them(capsys, source, tmp_path, form):
    """The command that is told gives the rows as they were, and nothing is written before."""
    rows = [{name: row[name] for name in ("image", "caption")} for row in lines(source)]
    given = tmp_path / "given"
    if form == "csv":
        with given.open("w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    else:
        given.write_text("\n" + json.dumps(rows, indent=1 if form == "array of lines" else None) + "\n")
    code, out, err = run(capsys, source, *ORDINARY, input=given)
    assert (code, out) == (2, "")
    assert "JSON lines are needed" in err
    assert not (tmp_path / "out.jsonl").exists()
    told = re.search(r'python -c "(.*)" < FILE', err)
    with given.open() as file:
        done = subprocess.run([sys.executable, "-c", told[1]], stdin=file, capture_output=True, text=True, check=True)
    assert [json.loads(text) for text in done.stdout.splitlines()] == rows


def test_a_list_among_objects_is_set_aside_as_before(capsys, source):
    source.write_text("[1]\n" + source.read_text() + "[2]\n")
    code, _, err = run(capsys, source, *ORDINARY)
    assert code == 0
    assert "2 rows set aside" in err


def test_rows_without_their_option(capsys):
    with pytest.raises(SystemExit):
        main(["filter", "rows.jsonl"])
    assert "the rows to filter are named by --input" in capsys.readouterr().err


def test_other_settings_for_the_same_output(capsys, source):
    run(capsys, source, *ORDINARY)
    assert (
        "other settings, says out.settings.json (action was 'flag' and is 'abstain')"
        in run(capsys, source, *ORDINARY, "--action", "abstain")[2]
    )


def test_the_filter_that_ships_acts_on_probabilities_and_guarantees_what_is_asked_for(capsys, source, tmp_path):
    code, out, _ = run(capsys, source, "--action", "redact")
    assert code == 0
    assert all(
        row["filter"]["calibrated"] and row["filter"]["threshold"] == 0.5 for row in lines(tmp_path / "out.jsonl")
    )
    assert "assumptions" not in out
    out = run(capsys, source, "--risk", "0.2", output=tmp_path / "guaranteed.jsonl")[1]
    assert "if this model wrote the texts itself: the chance" in out
    assert "at most 0.2" in out


def test_true_captions_in_other_words_than_the_models_are_told_of_and_questions_are_judged(capsys, tmp_path):
    told, asked = tmp_path / "told.jsonl", tmp_path / "asked.jsonl"
    examples = scenes.examples("test", n=6, kinds=["where"])
    rows = {told: [], asked: []}
    for index, example in enumerate(examples):
        example.image.save(tmp_path / f"{index}.png")
        name = example.question.removeprefix("Where is the ").rstrip("?")
        rows[told].append({"image": f"{index}.png", "caption": f"There is a {name}."})
        rows[asked].append({"image": f"{index}.png", "prompt": f"Is there a {name} in the image?", "caption": "yes"})
    for path, those in rows.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in those))
    _, out, err = run(capsys, told, images=tmp_path, output=tmp_path / "told-out.jsonl")
    assert "6 of 6 mentions flagged" in out
    assert "more than half of the mentions are flagged" in err
    _, out, err = run(capsys, asked, images=tmp_path, output=tmp_path / "asked-out.jsonl")
    assert "0 of 6 mentions flagged" in out
    assert "more than half" not in err
