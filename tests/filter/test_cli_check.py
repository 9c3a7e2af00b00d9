"""`vtokens check` as a user meets it, on the embedded model."""

import io
import json

import pytest
from PIL import Image

from vtokens import scenes
from vtokens.cli import main

PLAIN = ("--extractor", "scenes", "--filter", "none")  # scores as they are, whatever ships


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    example = scenes.examples("decorrelated", n=1, kinds=["caption"])[0]
    path = tmp_path_factory.mktemp("check") / "scene.png"
    example.image.save(path)
    return str(path), example


@pytest.fixture
def absent(scene):
    """An object that is not in the picture and shares neither colour nor shape with anything in it."""
    here = {word for thing in scene[1].scene.visible for word in thing.name.split()}
    return next(c for c in scenes.CLASSES if not here & set(c.split()))


def run(capsys, *arguments):
    """(exit code, stdout, stderr)"""
    try:
        main(["check", *arguments])
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_what_is_there_passes_and_what_is_not_is_marked(capsys, scene, absent):
    path, example = scene
    code, out, err = run(capsys, path, example.answer, *PLAIN, "--threshold", "0.9")
    assert (code, err) == (0, "")
    assert out.startswith(example.answer)
    code, out, _ = run(capsys, path, f"{example.answer}, {absent}", *PLAIN, "--threshold", "0.9")
    assert code == 1
    assert out.startswith(f"{example.answer}, [{absent}] (")
    assert "1 of " in out


def test_json_for_machines(capsys, scene, absent):
    code, out, _ = run(capsys, scene[0], absent, *PLAIN, "--json")
    found = json.loads(out)
    assert code == 1
    assert found["flagged"] == 1
    assert found["mentions"][0]["name"] == absent
    assert found["mentions"][0]["p"] > found["threshold"]


def test_a_question_and_an_answer_from_the_standard_input(capsys, scene, absent, monkeypatch):
    for answer, code in (("yes\n", 1), ("no\n", 0)):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        options = (*PLAIN, "--prompt", f"Is there a {absent} in the image?")
        assert run(capsys, scene[0], "-", *options)[0] == code


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.png", "a dog"], "none.png"),
        (["SCENE", ""], "the response is empty"),
        (["SCENE", " \n"], "the response is empty"),
        (["SCENE", "a dog", "--threshold", "2"], "--threshold 2 is not allowed: a probability from 0 to 1"),
        (["SCENE", "a dog", "--threshold", "0.5", "--risk", "0.1"], "not allowed with argument"),
        (["SCENE", "a dog", "--extractor", "cocoa"], "Did you mean 'coco'?"),
        (["SCENE", "a dog", "--extractor", "lexicon:none.txt"], "none.txt"),
        (["SCENE", "a dog", "--signals", "nothing_like_it"], "unknown signal 'nothing_like_it'"),
        (["SCENE", "a dog", "--model", "scene-lava"], "Did you mean 'scenes-llava'?"),
        (["SCENE", "a dog", "--filter", "none.json"], "none.json"),
        (["SCENE"], "see vtokens check --help"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(capsys, scene, arguments, says):
    code, out, err = run(capsys, *(scene[0] if a == "SCENE" else a for a in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("vtokens: error: ")
    assert err.count("\n") == 1
    assert says in err


def test_a_response_that_mentions_nothing_passes(capsys, scene):
    code, out, _ = run(capsys, scene[0], "👍 犬", *PLAIN)
    assert code == 0
    assert "nothing is mentioned that could be checked" in out


def test_heat_maps_are_written(capsys, scene, absent, tmp_path):
    maps = tmp_path / "maps"
    code, out, _ = run(capsys, scene[0], absent, *PLAIN, "--json", "--heatmaps", str(maps))
    assert code == 1
    assert json.loads(out)["heatmaps"] == [str(path) for path in maps.iterdir()]
    assert Image.open(next(maps.iterdir())).size[0] >= 96


def test_the_filter_that_ships_tells_what_is_there_from_what_is_not(capsys, scene, absent):
    path, example = scene
    assert run(capsys, path, example.answer)[0] == 0
    code, out, _ = run(capsys, path, f"{example.answer}, {absent}")
    assert code == 1
    assert out.startswith(f"{example.answer}, [{absent}] (")
    assert "probability above 0.5" in out
    for answer, code in (("yes", 1), ("no", 0)):
        assert run(capsys, path, answer, "--prompt", f"Is there a {absent} in the image?")[0] == code
