"""Sweeps whose questions are asked by recipes, through genuine lmms-eval and the embedded model."""

import pytest

import vtokens
from tests.eval.sweeping import lines, small
from vtokens.cli import main
from vtokens.eval.cells import cells
from vtokens.eval.lmms.asked import user_turn
from vtokens.eval.lmms.looking import question_of
from vtokens.recipes import crop, dyfo
from vtokens.scenes import examples

pytestmark = pytest.mark.filterwarnings("default::FutureWarning", "default::DeprecationWarning")
ASKED = {"tasks": ["scenes_vqa"], "limit": 3}


def test_a_recipe_is_a_cell_beside_the_plain_question(tmp_path, shipped):
    """What it says is what the function says in Python; its costs are those of all passes over the plain question's."""
    wanted = {"strategies": ["none", "fastv"], "recipes": ["none", "crop"]}
    outcome = small(tmp_path / "out", **ASKED, **wanted)
    rows = lines(tmp_path / "out" / "samples.jsonl")
    assert list(dict.fromkeys(row["cell"] for row in rows)) == [
        "none#s0",
        "crop#s0",
        "fastv@0.25#s0",
        "fastv+crop@0.25#s0",
    ]
    for spec, cell in (("none", "crop#s0"), ("fastv(keep=0.25)", "fastv+crop@0.25#s0")):
        with vtokens.attach(shipped[0], spec):
            for row in (row for row in rows if row["cell"] == cell):
                example = examples("test", 3, 0)[row["doc"]]
                looked = crop(*shipped, example.image, example.question)
                assert (row["text"], row["flops"]) == (looked.text, looked.flops)
                assert (row["question"], row["visual_tokens"], row["batch"]) == (example.question, 2 * 144, 1)
    ratios = {row["cell"]: row["flops_ratio"] for row in outcome.results}
    assert ratios["none#s0"] == 1 > ratios["fastv@0.25#s0"]
    assert 2 < ratios["fastv+crop@0.25#s0"] < 3 < ratios["crop#s0"]
    before = (tmp_path / "out" / "samples.jsonl").read_bytes()
    small(tmp_path / "out", **ASKED, **wanted)
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == before


def test_an_answer_has_the_tokens_of_its_own_prompt(tmp_path, shipped):
    """`dyfo` asks about several cuttings, and here chooses what it asked first: the picture alone."""
    small(tmp_path / "out", **ASKED | {"limit": 4}, strategies=["none"], keeps=[], recipes=["dyfo(rollouts=2)"])
    shown = []
    for row in lines(tmp_path / "out" / "samples.jsonl"):
        example = examples("test", 4, 0)[row["doc"]]
        looked = dyfo(*shipped, example.image, example.question, rollouts=2)
        shown.append(len(looked.images))
        assert row["text"] == looked.text
        assert (row["prompt_tokens"], row["visual_tokens"]) == (looked.said.start, 144 * len(looked.images))
    assert 1 in shown


def test_cells_are_named_after_recipes():
    found = cells(["none", "fastv"], [0.5], recipes=["none", "crop", "crop(size=40)"])
    assert [(cell.cell, cell.name, cell.recipe) for cell in found] == [
        ("none#s0", "none", "none"),
        ("crop#s0", "crop", "crop"),
        ("crop(size=40)#s0", "crop(size=40)", "crop(size=40)"),
        ("fastv@0.5#s0", "fastv", "none"),
        ("fastv+crop@0.5#s0", "fastv+crop", "crop"),
        ("fastv+crop(size=40)@0.5#s0", "fastv+crop(size=40)", "crop(size=40)"),
    ]
    with pytest.raises(ValueError, match=r"unknown recipe 'crpo'. Did you mean 'crop'"):
        cells(["none"], recipes=["crpo"])
    with pytest.raises(ValueError, match=r"the recipe 'crop' is asked for twice"):
        cells(["none"], recipes=["crop", "crop(layer=none)"])


def test_what_is_no_question_about_one_picture_is_refused():
    [example] = examples("test", 1, 0)
    image, question = question_of(user_turn([example.image], "<image>\nWhat?"), "document 0", "crop")
    assert (image.size, question) == (example.image.size, "What?")
    for shown in ([], [example.image] * 2):
        with pytest.raises(ValueError, match=r"the recipe crop answers one question about one picture, and document 3"):
            question_of(user_turn(shown, "What?"), "document 3", "crop")


def test_the_command_line_knows_recipes(tmp_path, capsys):
    line = ["eval", "--tasks", "scenes_vqa", "--strategies", "none", "--out", str(tmp_path / "out"), "--limit", "2"]
    with pytest.raises(SystemExit):
        main([*line, "--recipe", "none,crpo"])
    assert "unknown recipe 'crpo'. Did you mean 'crop'" in capsys.readouterr().err
    main([*line, "--recipe", "none,crop(size=40)"])
    assert "crop(size=40)" in capsys.readouterr().out
