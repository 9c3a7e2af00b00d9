"""Options are checked before a model is loaded, mean the same in every command, and errors say what is allowed."""

import argparse
import io
import json
import sys

import pytest
import torch

import vtokens
from vtokens import scenes
from vtokens.cli import main
from vtokens.cli.options import check_file, check_folder, whole
from vtokens.eval.cells import cells
from vtokens.eval.lmms.loading import load
from vtokens.loading.context import context_of
from vtokens.loading.hardware import check_device, check_dtype, devices

NO_MODEL = ("--model", "scene-lava")  # an error about something else came before a model was looked for


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("options") / "scene.png"
    scenes.examples("test", n=1, kinds=["exist"])[0].image.save(path)
    return str(path)


def failure(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.startswith("vtokens: error: ")
    assert err.count("\n") == 1
    assert len(err) < 1300
    return err


COMMANDS = {
    "run": ["run", "SCENE", "what?", *NO_MODEL],
    "check": ["check", "SCENE", "a dog", *NO_MODEL],
    "calibrate": ["calibrate", "dymu", "scene-lava", "--out", "TMP/t.json"],
    "search": ["search-patterns", "scene-lava", "--out", "TMP/p.json"],
    "profile": ["profile", "scene-lava"],
    "bench": ["bench", "kernels"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--device", "cuda:63", "device 'cuda:63' is not to be had: torch"),
        ("--device", "cudaa", "unknown device 'cudaa'. Did you mean 'cuda'? Here there is: cpu"),
        ("--device", "cuda:x", "unknown device 'cuda:x'"),
        ("--device", "", "--device is empty"),
        ("--dtype", "float8", "unknown dtype 'float8'. Did you mean 'float32'? Allowed: auto, bfloat16, float16"),
        ("--dtype", "", "unknown dtype ''"),
    ],
)
def test_devices_and_dtypes(capsys, scene, tmp_path, command, option, value, says):
    arguments = [a.replace("SCENE", scene).replace("TMP", str(tmp_path)) for a in COMMANDS[command]]
    assert says in failure(capsys, *arguments, option, value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none(capsys, scene):
    assert f"device 'cuda' is not to be had: torch {torch.__version__} sees cpu" in failure(
        capsys, "run", scene, "what?", "--device", "cuda"
    )
    with pytest.raises(ValueError, match="device 'cuda' is not to be had"):
        load("scenes-llava", None, None, {}, device="cuda")


def test_what_is_here_is_taken():
    for name in ["cpu:0", *devices()]:
        assert check_device(name) == torch.device(name)
    assert check_dtype("auto") == "auto"
    assert check_dtype("bfloat16") is torch.bfloat16


@pytest.mark.parametrize(
    ("command", "option", "path", "says"),
    [
        ("run", "--overlay", "TMP/none/kept.png", "--overlay '"),
        ("run", "--overlay", "TMP/kept", "names no kind of picture"),
        ("run", "--overlay", "TMP/folder.png", "no regular file"),
        ("run", "--overlay", "/proc/kept.png", "cannot be written"),
        ("check", "--heatmaps", "TMP/file/maps", "--heatmaps '"),
        ("check", "--heatmaps", "/proc/maps", "cannot be written"),
        ("calibrate", "--out", "TMP/none/t.json", "--out '"),
        ("search", "--out", "/proc/p.json", "cannot be written"),
        ("bench", "--csv", "TMP/none/rows.csv", "--csv '"),
    ],
)
def test_what_cannot_be_written_is_known_before_the_work(capsys, scene, tmp_path, command, option, path, says):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    arguments = [a.replace("SCENE", scene).replace("TMP", str(tmp_path)) for a in COMMANDS[command]]
    assert says in failure(capsys, *arguments, option, path.replace("TMP", str(tmp_path)))


def test_a_check_of_a_place_leaves_nothing_behind(tmp_path):
    check_folder(tmp_path / "a" / "b", "--out")
    (tmp_path / "a" / "kept").write_text("as it was")
    check_file(tmp_path / "a" / "kept", "--out")
    check_file(tmp_path / "a" / "new", "--out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "kept"]
    assert (tmp_path / "a" / "kept").read_text() == "as it was"


def test_a_strategy_without_a_keep_has_its_own_default_everywhere(capsys, scene):
    def run(*more):
        main(["run", scene, "how many objects are there?", "--strategy", "cls", *more])
        return capsys.readouterr().err.split(" MB, ")[0]  # the rest is how long it took

    assert run() == run("--keep", "0.25")
    own = vtokens.describe("cls").fields["keep"][1]
    assert cells(["none", "cls"]) == cells(["none", "cls"], [own])
    assert [cell.cell for cell in cells(["cls"])] == ["cls@0.25#s0"]
    [both] = cells(["cls+fastv"])  # two keeps, neither of which calls the cell
    assert (both.cell, both.keep) == ("cls+fastv#s0", None)
    quick = ("--layers", "2", "--scale", "8", "--new-tokens", "1", "--rounds", "1", "--threads", "1", "--json")
    main(["profile", "--preset", "llava-1.5-7b", "--strategy", "cls", *quick])
    [row] = json.loads(capsys.readouterr().out)["rows"]
    assert (row["name"], row["keep"], row["kept_tokens"]) == ("cls", 0.25, 144)


def test_a_keep_without_a_strategy_is_an_error_everywhere(capsys, scene, tmp_path):
    says = "keep=0.5 has no strategy to take it"
    assert says in failure(capsys, "run", scene, "what?", "--keep", "0.5")
    assert says in failure(capsys, "run", scene, "what?", "--keep", "0.5", "--strategy", "vhr")
    assert says in failure(capsys, "check", scene, "a dog", "--keep", "0.5")
    assert says in failure(capsys, "profile", "scenes-llava", "--keep", "0.5")
    pytest.importorskip("lmms_eval")
    sweep = ("eval", "--tasks", "scenes_vqa", "--strategies", "none", "--keep", "0.5", "--out", tmp_path / "out")
    assert says in failure(capsys, *sweep)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--tasks", ""), "'' has an empty part"),
        (("--tasks", "scenes_vqa,,"), "has an empty part"),
        (("--strategies", ""), "--strategies is empty"),
        (("--keep", ""), "'' has an empty part"),
        (("--keep", ","), "',' has an empty part"),
        (("--out", " "), "--out is empty"),
        (("--model", ""), "--model is empty"),
        (("--include-path", ""), "--include-path is empty"),
        (("--attn-implementation", ""), "--attn-implementation is empty"),
        (("--seeds", "99999999999"), "'99999999999' is not allowed: a whole number from 1 to 1,000,000"),
        (("--seeds", "100000"), "100,000 seeds are not allowed: at most 1,000"),
        (("--seeds", "0"), "'0' is not allowed"),
        (("--limit", "1e3"), "'1e3' is not allowed"),
        (("--limit", "1000000"), "at most 100,000 documents are drawn"),
        (("--max-new-tokens", "4096"), "the model's context holds 1,024"),
    ],
)
def test_a_sweep_that_cannot_be(capsys, tmp_path, more, says):
    pytest.importorskip("lmms_eval")
    sweep = ("eval", "--tasks", "scenes_vqa", "--strategies", "none", "--out", tmp_path / "out", "--limit", "1")
    assert says in failure(capsys, *sweep, *more)


def test_what_does_not_fit_into_the_context_is_refused_before_it_runs(capsys, scene):
    question = "is there a red circle ? " * 40_000
    assert "the question has 960,000 characters, more than the model's context" in failure(
        capsys, "run", scene, question
    )
    assert "tokens with its pictures, and the model's context holds 1,024" in failure(
        capsys, "run", scene, "is there a red circle ? " * 200
    )
    says = failure(capsys, "run", scene, "is there a red circle ?", "--max-new-tokens", "5000")
    left = int(says.split("so that ")[1].split(" are left")[0])
    main(["run", scene, "is there a red circle ?", "--max-new-tokens", str(left)])
    assert capsys.readouterr().out.strip() in ("yes", "no")
    assert context_of(vtokens.load("scenes-llava")[0]) == 1024


def test_empty_text_is_refused(capsys, scene):
    assert "the question is empty" in failure(capsys, "run", scene, " ")
    assert "the image is empty" in failure(capsys, "run", "", "what?")
    assert "--prompt is empty" in failure(capsys, "check", scene, "a dog", "--prompt", "")
    assert "--strategy is empty" in failure(capsys, "run", scene, "what?", "--strategy", "")
    assert "the question holds the character NUL" in failure(capsys, "run", scene, "what\0?")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["profile", ""], "the model is empty: leave it out, or give it a value"),
        (["serve", " "], "the model is empty: leave it out, or give it a value"),
        (["heads", "fit", "", "few.jsonl", "--out", "h.safetensors"], "the model is empty: it cannot be left out"),
        (["heads", "fit", "scenes-llava", "", "--out", "h.safetensors"], "the labels are empty: it cannot be left out"),
        (["heads", "classify", "scenes-llava", "", "a.png"], "the vectors are empty: it cannot be left out"),
        (["heads", "classify", "scenes-llava", "h", "a.png", ""], "the picture is empty: it cannot be left out"),
        (["heads", "fit", "m", "few.jsonl", "--out", "h", "--question", ""], "--question is empty: leave it out"),
        (["heads", "relevance", "scenes-llava", "a.png", "dog", ""], "the text is empty: it cannot be left out"),
        (["calibrate", "dymu", "", "--out", "t.json"], "the model is empty: it cannot be left out"),
        (["search-patterns", "", "--out", "p.json"], "the model is empty: it cannot be left out"),
        (["strategies", ""], "the pattern is empty: leave it out, or give it a value"),
        (["cite", ""], "the spec is empty: leave it out, or give it a value"),
        (["run", "a.png", ""], "the question is empty: it cannot be left out"),
        (["run", "a.png", "what?", "--model", ""], "--model is empty: leave it out, or give it a value"),
        (["report", "a\0b"], "the folder holds the character NUL"),
    ],
)
def test_what_is_empty_is_named_as_it_was_typed(capsys, arguments, says):
    """Without dashes where it is an argument by its place, and told to be left out only where it can be."""
    assert says in failure(capsys, *arguments)


@pytest.mark.parametrize("text", ["0", "11", "1.0", "", "a" * 10_000, "9" * 10_000, "nan"])
def test_whole_numbers_have_bounds(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not allowed: a whole number from 1 to 10") as error:
        whole(1, 10)(text)
    assert len(str(error.value)) < 400


class Terminal(io.StringIO):
    """A terminal as a stream tells of itself."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "says"), [(Terminal, "loading nowhere; "), (io.StringIO, "")])
def test_the_demo_says_first_what_it_does(stream, says, monkeypatch):
    """Before what takes seconds is imported, and to a terminal alone."""
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr("vtokens.cli._quiet", lambda: pytest.fail(f"told: {sys.stderr.getvalue()!r}"))
    with pytest.raises(pytest.fail.Exception) as error:
        main(["demo", "--model", "nowhere"])
    assert str(error.value).startswith(f"told: '{says}")
    assert (len(sys.stderr.getvalue().splitlines())) == bool(says)
