"""The command line as a user meets it: answers, listings, and errors on one line with exit code 2."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFile

from vtokens import scenes
from vtokens.cli import main


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    example = scenes.examples("test", n=1, kinds=["exist"])[0]
    path = tmp_path_factory.mktemp("cli") / "scene.png"
    example.image.save(path)
    return path, example


def failure(capsys, *arguments):
    """The one line that `vtokens arguments` leaves on stderr."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.startswith("vtokens: error: ")
    assert err.count("\n") == 1
    return err


def test_run_answers_and_says_what_was_pruned(capsys, scene, tmp_path):
    path, example = scene
    picture = tmp_path / "kept.png"
    main(["run", str(path), example.question, "--strategy", "fastv", "--keep", "0.5", "--overlay", str(picture)])
    out, err = capsys.readouterr()
    assert out.strip() == example.answer
    assert "90.0 of 144 visual tokens per layer" in err  # 2 of 8 layers see 144, 6 see 72
    pixels = np.asarray(Image.open(picture)).astype(float)
    assert pixels.shape == (480, 480, 3)
    cells = pixels.reshape(12, 40, 12, 40, 3).mean((1, 3, 4))
    assert cells.min() < 0.7 * cells.max()  # some patches dimmed, some not


def test_run_without_a_strategy_measures_the_plain_model(capsys, scene):
    path, example = scene
    main(["run", str(path), example.question])
    out, err = capsys.readouterr()
    assert out.strip() == example.answer
    assert "none: 144.0 of 144" in err


def test_strategies_by_stage_needs_and_family(capsys):
    """Filters combine; what a family refuses is counted, and told with its reason where that is asked for."""
    main(["strategies", "--stage", "prompt", "--needs", "cls,attention"])
    assert "todre" in [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    main(["strategies", "fastv*", "--needs", "attention", "--family", "mllama"])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("refuses") == 1
    assert "mllama refuses all of them: fastv (--why says why)" in err
    main(["strategies", "fast*", "--stage", "pixels", "--family", "mllama"])
    assert "no strategy has all that is asked for" in capsys.readouterr().err
    main(["strategies", "fast*", "--family", "mllama", "--why"])
    assert "fastv    refused by mllama: tokens outside the sequence" in capsys.readouterr().out
    main(["strategies", "cls", "--family", "fast_vlm"])
    card = capsys.readouterr().out
    assert "which costs: one attention row" in card
    assert "on fast_vlm: refused, nothing of the tower is seen" in card
    assert "Did you mean 'prompt'" in failure(capsys, "strategies", "--stage", "promt")
    assert "Did you mean 'keys'" in failure(capsys, "strategies", "--needs", "key")
    assert "name it by --family" in failure(capsys, "strategies", "--why")


def test_strategies_lists_describes_and_filters(capsys):
    main(["strategies"])
    everything = capsys.readouterr().out
    assert all(name in everything for name in ("cls", "fastv", "random", "todre", "uniform"))
    main(["strategies", "f?stv"])
    assert "2403.06764" in capsys.readouterr().out  # one match: the whole card
    main(["models"])
    listed = capsys.readouterr().out
    assert "scenes-llava" in listed
    assert "Qwen/Qwen2.5-VL-7B-Instruct" in listed


@pytest.mark.parametrize("command", ["run", "check", "filter", "strategies", "models", "demo", "eval", "report"])
def test_help_shows_examples(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"vtokens {command}" in capsys.readouterr().out.split("examples:")[1]


def test_unknown_names_come_with_the_nearest_right_one(capsys, scene):
    path = str(scene[0])
    assert "Did you mean 'fastv'?" in failure(capsys, "run", path, "what?", "--strategy", "fastw")
    assert "Did you mean 'fastv'?" in failure(capsys, "strategies", "fastw")
    assert "Did you mean 'scenes-llava'?" in failure(capsys, "run", path, "what?", "--model", "scene-lava")
    assert "Did you mean 'layer'?" in failure(capsys, "run", path, "what?", "--strategy", "fastv(layr=2)")


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        ("0", "keep=0 keeps nothing"),
        ("-0.5", "keep=-0.5 is out of range"),
        ("1.5", "keep=1.5 is out of range"),
        ("nan", "keep=nan is out of range"),
        ("half", "'half' is not a number"),
        ("500", "more than the 144 visual tokens"),
    ],
)
def test_a_keep_that_cannot_be(capsys, scene, keep, says):
    assert says in failure(capsys, "run", str(scene[0]), "what?", "--strategy", "cls", f"--keep={keep}")


@pytest.mark.parametrize("lenient", [False, True])
def test_images_that_cannot_be_read(capsys, scene, tmp_path, monkeypatch, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)  # lmms-eval switches it on for the whole process
    whole = scene[0].read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("this is no picture")
    assert "cut.png" in failure(capsys, "run", str(tmp_path / "cut.png"), "what?")
    assert "text.png" in failure(capsys, "run", str(tmp_path / "text.png"), "what?")
    assert "none.png" in failure(capsys, "run", str(tmp_path / "none.png"), "what?")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


@pytest.mark.parametrize("size", [(1, 1), (4000, 10)])
def test_images_of_odd_sizes_are_answered(capsys, tmp_path, size):
    Image.new("RGB", size, "red").save(tmp_path / "odd.png")
    main(["run", str(tmp_path / "odd.png"), "how many objects are there?", "--strategy", "todre", "--keep", "0.25"])
    assert capsys.readouterr().out.strip()


def test_usage_errors_are_one_line(capsys):
    assert "see vtokens run --help" in failure(capsys, "run")
    assert "unknown command 'runn'. Did you mean 'run'?" in failure(capsys, "runn")


def test_the_installed_command_runs_as_a_process():
    done = subprocess.run(
        [sys.executable, "-c", "from vtokens.cli import main; main(['run', 'none.png', 'what?'])"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("vtokens: error:")
    assert "Traceback" not in done.stderr
