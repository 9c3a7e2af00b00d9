"""`vtokens check` as a user meets it, on the embedded model."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.families import build
from tests.filter.test_videos import SeesVideos
from tests.video import files
from vtokens import scenes, video
from vtokens.cli import main
from vtokens.cli.check import asked_by_default
from vtokens.cli.inputs import FRAMES, Visual
from vtokens.scenes.recognise import looks_drawn

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


def test_a_model_of_which_layers_have_no_attention(capsys, scene, tmp_path):
    for part in build("qwen3_5"):
        part.save_pretrained(tmp_path)
    code, out, err = run(capsys, scene[0], "a red cat", "--model", str(tmp_path), "--threshold", "0.5", "--json")
    assert code in (0, 1), err
    shares = [one["signals"]["visual_share"] for one in json.loads(out)["mentions"]]
    assert shares
    assert all(-1 < share < 0 for share in shares)


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
        (["SCENE", "red", "circle"], "circle (image is "),
        (
            ["SCENE", "red", "circle"],
            "response is 'red'; a text of several words stands in quotes) (see vtokens check --help)",
        ),
    ],
)
def test_errors_are_one_line_and_exit_code_2(capsys, scene, arguments, says):
    code, out, err = run(capsys, *(scene[0] if a == "SCENE" else a for a in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("vtokens: error: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize("text", ["👍 犬", "what a lovely day"])
def test_a_response_of_which_nothing_can_be_judged_has_a_code_of_its_own(capsys, scene, text):
    code, out, _ = run(capsys, scene[0], text, *PLAIN)
    assert code == 3
    assert "nothing was judged" in out
    code, out, err = run(capsys, scene[0], text, *PLAIN, "--json")
    assert (code, err) == (3, "")
    assert json.loads(out)["unjudged"] == [text]


def test_what_could_not_be_judged_is_said_and_counts(capsys, scene, absent):
    path, example = scene
    dogs = f"{example.answer} and a dog, a cat sleeps"
    for text, expected in ((dogs, 3), (f"{dogs}, {absent}", 1), (example.answer, 0)):
        if expected == 0:
            assert run(capsys, path, text, *PLAIN, "--threshold", "0.95")[0] == 0
            continue
        code, out, _ = run(capsys, path, text, *PLAIN, "--threshold", "0.95")
        assert code == expected
        assert "not judged: 'dog', 'cat'" in out
        found = json.loads(run(capsys, path, text, *PLAIN, "--threshold", "0.95", "--json")[1])
        assert found["unjudged"] == ["dog", "cat"]
    assert "not judged" not in run(capsys, path, example.answer, *PLAIN)[1]


def test_two_objects_in_one_relation_are_judged_together_or_not_at_all(capsys, scene):
    """No object is flagged because the model was never taught to relate it, and what was not judged is said."""
    text = "The green triangle is left of the green ring. There is a dog."
    for more in ((), PLAIN):
        code, out, _ = run(capsys, scene[0], text, *more, "--json")
        found = json.loads(out)
        assert (code, found["flagged"], found["mentions"]) == (3, 0, [])
        assert found["unjudged"] == ["green triangle is left of the green ring", "dog"]


def test_what_spoke_is_said_in_words(capsys, scene, absent):
    code, out, _ = run(capsys, scene[0], absent, "--explain", "--strategy", "todre")
    assert code == 1
    assert f"'{absent}', " in out
    assert "Speaks against it: " in out
    found = json.loads(run(capsys, scene[0], absent, "--explain", "--strategy", "todre", "--json")[1])
    assert found["explained"][0].startswith(f"'{absent}', ")
    code, _, err = run(capsys, scene[0], absent, "--explain", *PLAIN)
    assert code == 2
    assert "without a calibrator nothing weighs the signals" in err


def test_a_word_that_the_model_cannot_read_is_not_judged(capsys, scene):
    """COCO's extractor finds the dog; the tokenizer has no word for it, and the model would judge another one."""
    code, out, _ = run(capsys, scene[0], "a dog", "--extractor", "coco", "--filter", "none")
    assert code == 3
    assert "nothing was judged" in out


def test_a_photograph_is_nothing_that_an_embedded_model_can_see(capsys, scene, tmp_path):
    says = "vtokens: note: scenes-llava knows drawn scenes only"
    photographs = {
        "large.png": scene[1].image.resize((480, 480)),
        "flat.png": Image.new("RGB", (96, 96), "red"),
        "white.png": Image.new("RGB", (96, 96), "white"),
        "noise.png": Image.effect_noise((96, 96), 90).convert("RGB").resize((96, 64)),
    }
    for name, image in photographs.items():
        image.save(tmp_path / name)
        code, out, err = run(capsys, str(tmp_path / name), "red circle", *PLAIN, "--json")
        assert code in (0, 1)
        assert json.loads(out)["response"] == "red circle"
        assert err.startswith(says)
        assert err.count("\n") == 1
        main(["run", str(tmp_path / name), "how many objects are there?"])
        assert says in capsys.readouterr().err
    main(["run", scene[0], "how many objects are there?"])
    assert says not in capsys.readouterr().err


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_every_scene_is_known_as_one(split):
    assert all(looks_drawn(example.image) for example in scenes.examples(split, n=100, seed=11))


def test_a_model_that_was_taught_photographs_knows_scenes_on_them():
    ground = Image.new("RGB", (96, 96), "red")
    assert looks_drawn(ground, "scenes-smol")
    assert not looks_drawn(ground, "scenes-llava")
    assert not looks_drawn(ground.resize((480, 480)), "scenes-smol")


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


@files.needs_av
def test_frames_of_a_video(capsys, scene, absent, tmp_path):
    """Judged as the pictures that they are to this model; what was taken stands beside the report."""
    pixels = np.asarray(scene[1].image)
    clip = files.write(tmp_path / "clip.mp4", [pixels] * 20, pix_fmt="yuv444p", options={"crf": "1"})
    options = (*PLAIN, "--frames", "2", "--threshold", "0.9", "--heatmaps", str(tmp_path / "maps"))
    code, out, err = run(capsys, clip, absent, *options)
    assert code == 1
    assert out.startswith(f"[{absent}] (")
    assert "clip.mp4: 2 frames of 2.00 s, from 0.00 to 1.90 s" in err
    [drawn] = (tmp_path / "maps").iterdir()
    assert Image.open(drawn).width == 2 * 480 + 8
    found = json.loads(run(capsys, clip, absent, *PLAIN, "--fps", "1", "--json")[1])
    assert (found["video"]["kind"], len(found["video"]["frames"])) == ("video", 2)
    assert "no video to take frames from" in run(capsys, scene[0], absent, "--frames", "2")[2]
    assert "the standard input is for the response" in run(capsys, "-", absent)[2]
    code, _, err = run(capsys, clip, absent, *PLAIN)
    assert code == 2
    assert "the prompt alone fills it, so show fewer or smaller pictures, or fewer frames" in err
    assert f"{FRAMES} frames are shown: take fewer (--frames)" in err
    assert "cut the response" not in err
    long = " ".join([absent, "and"] * 100)
    code, _, err = run(capsys, clip, long, *PLAIN, "--frames", "6")
    assert code == 2
    assert re.search(r"cut the response to [1-9]\d* tokens, or check it in parts. 6 frames are shown: take fewer", err)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_what_was_asked_by_default(family):
    """Of a video about the video, where the model sees one; about the image where frames are pictures to it."""
    image, processor = Visual("a.png", Image.new("RGB", (8, 8))), build(family)[1]
    clip = Visual("a.mp4", clip=video.read(np.zeros((2, 8, 8, 3), dtype=np.uint8)))
    if family == "qwen2_5_vl":
        processor = SeesVideos(family)
    asked = "video" if family == "qwen2_5_vl" else "image"
    assert asked_by_default(processor, clip) == f"Describe the {asked}."
    assert asked_by_default(processor, image) == "Describe the image."
