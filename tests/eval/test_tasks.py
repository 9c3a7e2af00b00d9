"""The scenes tasks: documents that mean what they say, the same everywhere, and scores that agree with the metrics."""

import ast
import json
import threading
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.eval.lmms import evaluate, texts
from vtokens import scenes
from vtokens.eval import metrics, tasks, tasks_path
from vtokens.eval.lmms.model import VTokens
from vtokens.eval.tasks import TASKS, build, utils
from vtokens.eval.tasks.documents import draw

pytestmark = pytest.mark.filterwarnings("default::FutureWarning", "default::DeprecationWarning")


def picture(stored):
    """The picture of a document, decoded."""
    return Image.open(BytesIO(stored["bytes"])).convert("RGB")


def test_the_same_documents_everywhere_and_more_begin_with_the_same():
    for task in TASKS:
        few, many = draw(task, 3, 4, "test"), draw(task, 5, 4, "test")
        assert many[:3] == few
        assert draw(task, 3, 5, "test") != few


def test_a_document_is_the_scene_it_names():
    for task in ("scenes_vqa", "scenes_ocr", "scenes_pope_adversarial"):
        for doc, example in zip(draw(task, 9, 4, "test"), scenes.examples("test", 9, 4, TASKS[task]), strict=True):
            assert (doc["question"], doc["answer"]) == (example.question, example.answer)
            assert picture(doc["image"]).tobytes() == example.image.tobytes()
            assert doc["objects"] == [thing.name for thing in example.scene.visible]


def test_only_one_of_four_pictures_shows_the_needle():
    others = {e.image.tobytes(): e.scene for e in scenes.examples("test", 128, 4 + 2**32, ["count_all"])}
    documents = draw("scenes_needle", 40, 4, "test")
    for doc, example in zip(documents, scenes.examples("test", 40, 4, ["where"]), strict=True):
        images = [picture(stored).tobytes() for stored in doc["images"]]
        assert len({*images}) == 4
        assert images.pop(doc["needle"]) == example.image.tobytes()
        for other in images:
            assert not any(f" {thing.name}?" in doc["question"] for thing in others[other].objects)
    assert {doc["needle"] for doc in documents} == {0, 1, 2, 3}


def test_building(tmp_path):
    folder = build(tmp_path / "a", 2, seed=1)
    assert sorted(path.stem for path in folder.glob("*.yaml")) == sorted([*TASKS, "scenes_pope"])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert build(str(folder), 2, seed=1) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(ValueError, match="holds other tasks or other files"):
        build(folder, 3, seed=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    with pytest.raises(ValueError, match="holds other tasks or other files"):
        build(tmp_path / "full", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "full"]  # nothing half-made is left beside them


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n=0 is not allowed: an int of at least 1"),
        ({"n": 2.5}, "n=2.5 is not allowed"),
        ({"seed": -1}, "seed=-1 is not allowed: an int of at least 0"),
        ({"split": "tests"}, "unknown split 'tests'. Did you mean 'test'"),
    ],
)
def test_nothing_is_built_of_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "a", **arguments)
    assert not list(tmp_path.iterdir())


def test_processes_may_build_at_once(tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(build(tmp_path / "a", 1))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "a"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_all_code_that_draws_tells_old_documents_from_new_ones():
    """What `sampling` imports of its package, inside of functions too, and what that imports."""
    home, reached, waiting = Path(scenes.__file__).parent, set(), {"sampling"}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        for node in ast.walk(ast.parse((home / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                waiting |= {node.module or one.name for one in node.names} - reached
    assert {*tasks._DRAWING} == reached


def test_the_folder_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path))
    folder = tasks_path(2, seed=3)
    assert tmp_path in folder.parents
    assert json.loads((folder / "scenes.json").read_text())["seed"] == 3
    assert tasks_path(2, seed=3) == folder != tasks_path(2, seed=4)


@pytest.mark.parametrize(
    ("answer", "target", "right"),
    [
        ("Row1 column3.", "row1 column3", True),
        ("row1, column3", "row1 column3", True),
        ("3", "three", True),
        ("13", "three", False),
        ("", "nothing", False),
        ("red circle , blue square", "red circle, blue square", True),
        ("blue square, red circle", "red circle, blue square", False),
    ],
)
def test_exactly_right(answer, target, right):
    assert utils.same(answer, target) is right


def test_what_a_caption_names():
    doc = {"objects": ["red circle", "blue cross"], "answer": "red circle, blue cross"}
    found = utils.score_caption(doc, ["There are two red circles, a Blue cross and a cyan ring."])
    assert found["chair_i"] == [["red circle", "blue cross", "cyan ring"], ["red circle", "blue cross"]]
    assert (found["chair_s"], found["length"], found["exact"]) == (1.0, 12.0, 0.0)
    assert utils.chair_i([found["chair_i"]]) == pytest.approx(1 / 3)
    assert utils.object_recall([found["chair_i"]]) == 1.0


def test_figures_that_are_not_defined_are_no_numbers():
    silent = [utils.score_pope({"answer": answer}, [""]) for answer in ("yes", "no")]
    assert [found["accuracy"] for found in silent] == [0.0, 0.0]
    records = [found["precision"] for found in silent]
    assert utils.precision(records) != utils.precision(records)  # NaN: nothing was answered with yes
    assert utils.precision.interval(records) is None
    assert utils.recall(records) == 0.0


@pytest.fixture(scope="module")
def results(shipped, scenes_tasks):
    """The embedded model under a strategy that makes it err, so that no score is trivially perfect."""
    names = ["scenes_vqa", "scenes_pope", "scenes_caption"]
    return evaluate(
        VTokens.of(*shipped, strategy="random(keep=0.1)", batch_size=4, progress=False), names, scenes_tasks
    )


def test_scores_are_those_of_the_metrics(results, scenes_tasks):
    answers = texts(results)
    vqa = scenes.examples("test", 8, 5, TASKS["scenes_vqa"])
    right = [scenes.score(answers["scenes_vqa", doc], example) for doc, example in enumerate(vqa)]
    assert results["results"]["scenes_vqa"]["exact,none"] == sum(right) / 8 < 1

    for split in ("random", "popular", "adversarial"):
        asked = scenes.examples("test", 8, 5, [f"pope_{split}"])
        said = [metrics.yes_no(answers[f"scenes_pope_{split}", doc]) for doc in range(8)]
        wanted = metrics.pope(said, [example.answer == "yes" for example in asked])
        found = results["results"][f"scenes_pope_{split}"]
        for figure in ("accuracy", "recall", "f1", "yes_ratio"):
            assert found[f"{figure},none"] == pytest.approx(getattr(wanted, figure).value)
    mean = sum(
        results["results"][f"scenes_pope_{split}"]["accuracy,none"] for split in ("random", "popular", "adversarial")
    )
    assert results["results"]["scenes_pope"]["accuracy,none"] == pytest.approx(mean / 3)


def test_chair_is_that_of_the_metrics(results):
    captions = [texts(results)["scenes_caption", doc] for doc in range(8)]
    named = [[part.strip() for part in caption.split(",")] for caption in captions]
    truths = [[t.name for t in e.scene.visible] for e in scenes.examples("test", 8, 5, ["caption"])]
    wanted, found = metrics.chair(named, truths), results["results"]["scenes_caption"]
    assert found["chair_s,none"] == wanted.chair_s.value
    assert found["chair_i,none"] == pytest.approx(wanted.chair_i.value)
    assert found["object_recall,none"] == pytest.approx(wanted.recall.value)
    assert found["length,none"] == sum(len(caption.replace(",", " ").split()) for caption in captions) / 8
