"""Benchmarks of detectors, on small files in their published layout about scenes that the embedded model knows."""

import json

import numpy as np
import pytest

from vtokens import scenes
from vtokens.eval.detectors.benchmarks import amber, amber_words, pope
from vtokens.eval.detectors.run import judged
from vtokens.filter import HallucinationFilter
from vtokens.filter.mentions import get_extractor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four pictures; POPE's lines about them; RePOPE's, with one label turned and one question gone; AMBER's files."""
    at = tmp_path_factory.mktemp("benchmarks")
    lines, queries, truths = [], [], []
    drawn = scenes.examples("test", n=4, seed=5, kinds=["caption"])
    for number, example in enumerate(drawn, 1):
        example.image.save(at / f"AMBER_{number}.jpg", quality=95, subsampling=0)
        there = sorted({thing.name for thing in example.scene.visible})
        absent = next(name for name in scenes.CLASSES if name not in there)
        for name, label in ((there[0], "yes"), (absent, "no")):
            row = {"question_id": len(lines) + 1, "image": f"AMBER_{number}.jpg"}
            lines.append(row | {"text": f"Is there a {name} in the image?", "label": label})
        queries.append({"id": number, "image": f"AMBER_{number}.jpg", "query": "Describe the image."})
        truths.append({"id": number, "type": "generative", "truth": there, "hallu": [absent]})
        queries.append({"id": 1004 + number, "image": f"AMBER_{number}.jpg", "query": f"Is there a {absent}?"})
        truths.append({"id": 1004 + number, "type": "discriminative-hallucination", "truth": "no"})
    (at / "coco_pope_random.json").write_text("".join(json.dumps(row) + "\n" for row in lines))
    turned = [row | {"label": "no"} if row["question_id"] == 1 else row for row in lines[:-1]]
    (at / "coco_repope_random.json").write_text("".join(json.dumps(row) + "\n" for row in turned))
    (at / "query").mkdir()
    (at / "query" / "query_all.json").write_text(json.dumps(queries))
    (at / "annotations.json").write_text(json.dumps(truths))
    (at / "relation.json").write_text(json.dumps({name: [] for name in scenes.CLASSES} | {"circle": ["disc"]}))
    (at / "safe_words.txt").write_text("image\n")
    return at


@pytest.fixture(scope="module")
def hf():
    return HallucinationFilter.from_pretrained("scenes-llava", calibrator=None, signals="nll")


def said(text, prompt):
    return get_extractor("scenes")(text, prompt)


def test_pope_and_the_labels_of_repope(folder):
    plain = pope(folder / "coco_pope_random.json", folder)
    mended = pope(folder / "coco_pope_random.json", folder, folder / "coco_repope_random.json")
    assert (len(plain), len(mended)) == (8, 7)
    for cases, answers in ((plain, ["yes", "no"] * 4), (mended, ["no", "no", *["yes", "no"] * 2, "yes"])):
        for case, right in zip(cases, answers, strict=True):
            other = {"yes": "no", "no": "yes"}[right]
            assert [case.wrong(m) for m in said(right, case.question)] == [False]
            assert [case.wrong(m) for m in said(f"{other}.", case.question)] == [True]
    first, *rest = said("yes, red circle", plain[0].question)
    assert plain[0].wrong(first) is False
    assert [plain[0].wrong(one) for one in rest] == [None]


def test_amber_noun_by_noun(folder):
    [first, *others] = amber(folder, folder)
    assert len(others) == 3
    assert {case.part for case in amber(folder, folder, ["discriminative"])} == {"discriminative-hallucination"}
    truth = json.loads((folder / "annotations.json").read_text())[0]
    extract = amber_words(folder)
    text = f"There is a {truth['truth'][0]}, two {truth['hallu'][0]}s, and no {truth['hallu'][0]} in the image."
    assert [(m.negated, first.wrong(m)) for m in extract(text)] == [(False, False), (False, True), (True, False)]
    assert [m.name for m in extract("a disc and a lamp")] == ["disc"]
    with pytest.raises(ValueError, match="unknown part of AMBER 'generativ_'"):
        amber(folder, folder, ["generativ_"])


def test_a_filter_is_held_against_the_labels(folder, hf):
    """Given answers that are all wrong or all right, and the model's own: figures are those of numpy on its numbers."""
    cases = pope(folder / "coco_pope_random.json", folder)
    answers = ["yes", "yes"] * 4  # half of them wrong
    found = judged(hf, cases, answers, batch=4)
    assert found.wrong == (False, True) * 4
    p, wrong = np.array(found.p), np.array(found.wrong)
    right = np.mean([(a > b) + 0.5 * (a == b) for a in p[wrong] for b in p[~wrong]])
    table = {one.name: one for one in found.figures(resamples=20)}
    assert table["filter"].auroc.value == pytest.approx(right)
    assert table["filter"].auroc.value > 0.9
    assert table["filter"].ece is None, "scores that only rank are no probabilities"
    assert table["length of the answer"].auroc.value == 0.5
    own = judged(hf, cases, max_new_tokens=2)
    assert len(own.p) == 8
    with pytest.raises(ValueError, match="one each is needed"):
        judged(hf, cases, ["yes"])
    nothing = judged(hf, cases[:2], ["👍", "👍"])
    assert (nothing.p, nothing.silent) == ((), 2)
    with pytest.raises(ValueError, match="nothing was judged"):
        nothing.figures()


@pytest.mark.parametrize(
    ("line", "says"),
    [('{"image": "a.jpg", "text": "?"}', "'label' are needed"),
     ('{"image": "a.jpg", "text": "?", "label": "maybe"}', "a label is 'yes' or 'no'")],
)  # fmt: skip
def test_files_that_are_none(folder, tmp_path, line, says):
    (tmp_path / "q.json").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=f"line 1.*{says}"):
        pope(tmp_path / "q.json", folder)
    (tmp_path / "q.json").write_text(json.dumps({"image": "b.jpg", "text": "?", "label": "no"}) + "\n")
    with pytest.raises(ValueError, match="labels of none of the questions"):
        pope(folder / "coco_pope_random.json", folder, tmp_path / "q.json")
    with pytest.raises(FileNotFoundError):
        amber(tmp_path, folder)
