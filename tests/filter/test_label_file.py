"""Labels of one's own: from a file of words to a filter, with figures by cross-validation, in a folder to share."""

import json

import numpy as np
import pytest

from vtokens import scenes
from vtokens.cli import main
from vtokens.eval.detectors.crossvalidated import crossvalidated
from vtokens.eval.detectors.figures import f1, figures
from vtokens.filter import HallucinationFilter
from vtokens.filter.calibrators.label_file import Labelled, read_labels
from vtokens.filter.calibrators.records import LabelledResponse
from vtokens.filter.folder import NAMES, read_folder, write_folder
from vtokens.filter.mentions import Mention, get_extractor
from vtokens.filter.saved import SHIPPED, read_filter, write

CHUNKS = get_extractor("chunks")


def test_words_of_the_answer_belong_to_mentions():
    text = "There is a brown dog on a bench. There is a dog house, and two dogs."
    mentions = CHUNKS(text)

    def wrong(*entries):
        labels, lost = Labelled("a", "?", text, entries).labels(mentions)
        return [m.text for m, one in zip(mentions, labels, strict=True) if one], lost

    assert wrong("brown") == (["brown"], [])
    assert wrong("brown dog") == (["brown", "dog"], [])
    assert wrong((text.index("bench"), text.index("bench") + 5), "two") == (["bench", "two"], [])
    assert wrong("There", "DOGS") == (["dogs"], ["There"])
    assert wrong() == ([], [])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"image": "a.png", "response": "A dog."}, "'wrong' are needed"),
        ({"image": "a.png", "response": "A dog.", "wrong": "dog"}, "a list of words"),
        ({"image": "a.png", "response": "A dog.", "wrong": ["cat"]}, "does not stand in the answer"),
        ({"image": "a.png", "response": "A dog.", "wrong": ["do"]}, "does not stand in the answer"),
        (
            {"image": "a.png", "response": "A dog.", "wrong": [[2, 9]]},
            r"neither words of the answer nor \[start, end\]",
        ),
        ({"image": "", "response": "A dog.", "wrong": []}, "'image' is no text"),
        ([], "an object is needed"),
    ],
)
def test_rows_that_are_none(tmp_path, row, says):
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps({"image": "a.png", "caption": "A dog.", "wrong": []}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=f"line 2.*{says}"):
        list(read_labels(path))


def labels_of(folder, rows, split="decorrelated"):
    """Captions of scenes, each second with something that is not there; the label file."""
    found = []
    for number, example in enumerate(scenes.examples(split, n=rows, seed=3, kinds=["caption"])):
        example.image.save(folder / f"{number}.png")
        there = {thing.name for thing in example.scene.visible}
        absent = next(name for name in scenes.CLASSES if name not in there)
        said = f"{example.answer}, {absent}" if number % 2 else example.answer
        found.append({"image": f"{number}.png", "response": said, "wrong": [absent] * (number % 2)})
    path = folder / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def test_from_labels_to_a_filter_on_the_command_line(tmp_path, capsys):
    labels = labels_of(tmp_path, 100)
    out = tmp_path / "mine"
    main(["filter", "fit", "--labels", str(labels), "--images", str(tmp_path), "--out", str(out), "--risk", "0.2",
          "--signals", "nll,position", "--batch-size", "25"])  # fmt: skip
    said = capsys.readouterr()
    assert "100 answers about 100 images: 50 of " in said.out
    assert "cross-validated by image" in said.out
    assert "length of the answer" in said.out
    assert "100 rows are few" in said.err
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)
    hf = HallucinationFilter.from_pretrained("scenes-llava", calibrator=str(out))
    assert [signal.name for signal in hf.judge.signals] == ["nll", "position"]
    assert hf.judge.calibrator.kinds.keys() == {"object"}
    example = scenes.examples("test", n=1, seed=41, kinds=["caption"])[0]
    absent = next(n for n in scenes.CLASSES if n not in {thing.name for thing in example.scene.visible})
    report = hf.check(example.image, example.question, f"{example.answer}, {absent}")
    assert report.calibrated
    assert max(report.mentions, key=lambda one: one.p).text == absent
    explained = hf.explain(report)[-1]
    assert explained.reasons[0].signal == "nll"
    assert "the model itself found these words unlikely" in str(explained)


def test_a_promise_that_cannot_hold_is_said(tmp_path, capsys):
    labels = labels_of(tmp_path, 80)
    main(["filter", "fit", "--labels", str(labels), "--images", str(tmp_path), "--out", str(tmp_path / "f.json"),
          "--risk", "0.01", "--signals", "nll", "--batch-size", "20"])  # fmt: skip
    said = capsys.readouterr()
    assert "infeasible" in said.out
    assert "the promise cannot be kept with these labels" in said.err


def synthetic(n, seed=0, good=2.0):
    draw, records = np.random.default_rng(seed), []
    for number in range(n):
        labels = [bool(one) for one in draw.random(4) < 0.3]
        values = [float(draw.normal() + good * one) for one in labels]
        kinds = ["object", "count", "object", "count"]
        mentions = [Mention(i, i + 1, "x", kind, "x", order=i) for i, kind in enumerate(kinds)]
        meta = {"model": "m", "strategy": "none", "prompts": "any", "decoding": "greedy", "extractor": "any"}
        records.append(LabelledResponse(f"{number}", "?", "xxxx", mentions, {"s": values}, labels, meta))
    return records


def test_cross_validation_never_judges_an_image_that_it_was_fitted_on():
    """Signals that mean the opposite in each image tell nothing of the others: no fold profits from its own."""
    found = {one.name: one for one in crossvalidated(synthetic(80), resamples=50)}
    assert found["filter"].auroc.value == pytest.approx(0.92, abs=0.06)  # of two normals, 2 apart
    assert {"filter, count", "filter, object", "position in the answer"} <= found.keys()
    assert abs(found["position in the answer"].auroc.value - 0.5) < 0.15
    noise = {one.name: one for one in crossvalidated(synthetic(80, good=0.0), resamples=50)}
    assert abs(noise["filter"].auroc.value - 0.5) < 0.15
    assert noise["filter"].ece.value < 0.1
    with pytest.raises(ValueError, match="it takes at least"):
        crossvalidated(synthetic(8), resamples=10)


def test_f1_and_one_class():
    assert f1(np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)) == 0.5
    one = figures("x", [0.1, 0.2], [False, False], ["a", "b"], resamples=10)
    assert (one.auroc, one.f1) == (None, None)
    assert one.row()["AUROC"] == "-"
    with pytest.raises(ValueError, match="a score, a label and an image a claim"):
        figures("x", [0.1], [False], [])


def test_a_folder_holds_what_the_file_holds(tmp_path):
    [shipped] = SHIPPED.glob("scenes-llava.json")
    content = json.loads(shipped.read_text())
    folder = write_folder(tmp_path / "folder", content)
    assert read_folder(folder) == content
    saved = read_filter(folder)
    again = read_filter(write(tmp_path / "again", saved))
    assert again.calibration == saved.calibration
    assert again.calibrator.to_dict() == saved.calibrator.to_dict()
    assert saved.calibrator.to_dict() == read_filter(shipped).calibrator.to_dict()
    assert (folder / NAMES[0]).stat().st_size < 20_000
    (folder / NAMES[1]).write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(ValueError, match=r"does not hold"):
        read_filter(folder)
    (folder / NAMES[1]).write_bytes(b"none")
    with pytest.raises(ValueError, match="no safetensors file"):
        read_filter(folder)
    (folder / NAMES[1]).unlink()
    with pytest.raises(FileNotFoundError):
        read_filter(folder)
    with pytest.raises(OSError, match="no file or folder 'nobody/nothing'"):
        read_filter("nobody/nothing")
