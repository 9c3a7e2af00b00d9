"""The pictures a sweep keeps: the first one of each of the first documents, as the model is given it."""

import numpy as np
import pytest
from PIL import Image

from tests.eval import avi, made
from vtokens.eval import pictures, suite


def loaded(path, *names):
    return suite.load(names, [0], [path])


def test_pictures_are_kept_once_and_as_they_are_seen(shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MOST", 4)
    tasks = loaded(made.tasks(tmp_path / "made", shown={"n": 6}), "shown")
    facts = suite.facts(tasks, None)
    out = tmp_path / "out"
    pictures.save(out, tasks, facts, shipped[1])
    kept = sorted((out / "pictures" / "shown.s0").iterdir())
    assert [path.name for path in kept] == ["0.png", "1.png", "2.png", "3.png"]
    document = tasks[0]["shown"].eval_docs[2]["image"]
    assert np.array_equal(np.asarray(Image.open(kept[2])), np.asarray(document.convert("RGB")))
    # What is there stays.
    Image.new("RGB", (5, 5)).save(kept[0])
    pictures.save(out, tasks, facts, shipped[1])
    assert Image.open(kept[0]).size == (5, 5)


def test_seeds_that_ask_the_same_share_pictures():
    fact = {"hash": {"0": "a", "1": "b", "2": "a", "3": "b"}}
    assert [pictures.origin(fact, seed) for seed in range(4)] == [0, 1, 0, 1]


def turn(*parts):
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "what is it?"}]}]


def test_the_first_picture_or_frame_is_taken(shipped, tmp_path):
    rng = np.random.default_rng(0)
    frames = [np.full((96, 96, 3), light, dtype=np.uint8) for light in (200, 20, 20)]
    image = Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8))
    video = {"type": "video", "url": avi.write(tmp_path / "a.avi", frames)}
    assert pictures.first_seen(turn(), shipped[1]) is None
    assert pictures.first_seen(turn({"type": "image", "url": image}, video), shipped[1]).tobytes() == image.tobytes()
    seen = pictures.first_seen(turn(video), shipped[1])
    assert np.abs(np.asarray(seen).astype(int) - 200).max() < 6


def test_pictures_are_cropped_as_the_model_crops_and_made_small(tmp_path):
    from tests.families import build, image

    _, llava = build("llava")
    _, qwen = build("qwen2_5_vl")
    wide = {"type": "image", "url": image(1200, 300, seed=0)}
    assert pictures.first_seen(turn(wide), llava).size == (56, 56)
    assert pictures.first_seen(turn(wide), qwen).size == (480, 120)


def test_a_picture_that_cannot_be_read_is_named(shipped, tmp_path):
    (tmp_path / "cut.png").write_text("no picture")
    with pytest.raises(OSError, match=r"cut\.png"):
        pictures.first_seen(turn({"type": "image", "url": str(tmp_path / "cut.png")}), shipped[1])
