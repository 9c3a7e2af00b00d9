"""Benchmarks of detectors, on small files in their published layout about scenes that the embedded model knows."""

import json

import numpy as np
import pytest

from vtokens import scenes
from vtokens.eval.detectors.annotated import halloc, mhalubench
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


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """HalLoc's rows and MHaluBench's about four scenes: captions into which one absent object was put."""
    at = tmp_path_factory.mktemp("annotated")
    (at / "VG_100K_2").mkdir()
    (at / "scenes" / "train").mkdir(parents=True)
    rows, claims = [], []
    for number, example in enumerate(scenes.examples("test", n=4, seed=6, kinds=["caption"]), 1):
        example.image.save(at / "VG_100K_2" / f"{number}.jpg", quality=95, subsampling=0)
        example.image.save(at / "scenes" / "train" / f"{number}.png")
        there = [thing.name for thing in example.scene.visible][:2]
        absent = next(name for name in scenes.CLASSES if name not in there and name not in example.answer)
        text = ", ".join([there[0], absent, *there[1:]])
        span = {"name": absent, "char_index": f"{len(there[0]) + 2}:{len(there[0]) + 2 + len(absent)}"}
        other = {"name": there[0], "char_index": "0"}
        row = {"id": f"x{number}", "image_id": str(number), "prompt": "<image> Describe the image."}
        marks = {"object": [{"obj": span}], "scene": [{"sce": other}] if number == 4 else []}
        rows.append(row | {"hallucinated_text": text, "annotations": marks})
        labels = ["non-hallucination", "hallucination"]
        row = {
            "id": number,
            "image_path": f"/scenes/train/{number}.png",
            "claim_list": [there[0], f"{there[0]}, {absent}"],
        }
        claims.append(row | {"ref_claim_label": labels})
    (at / "halloc_caption.json").write_text(json.dumps(rows))
    (at / "MHaluBench_train.json").write_text(json.dumps(claims))
    return at


def test_halloc_by_what_its_spans_cover(annotated, hf):
    cases = halloc(annotated / "halloc_caption.json", annotated)
    assert {case.part for case in cases} == {"halloc_caption"}
    assert {case.question for case in cases} == {"Describe the image."}
    assert [[case.wrong(m) for m in said(case.response, case.question)][:2] for case in cases[:3]] == [
        [False, True]
    ] * 3
    assert [cases[3].wrong(m) for m in said(cases[3].response, "")][:2] == [True, True]
    [*_, last] = halloc(annotated / "halloc_caption.json", annotated, ["object"])
    assert [last.wrong(m) for m in said(last.response, "")][:2] == [None, True]
    found = judged(hf, cases)
    assert (sum(found.wrong), found.unlabelled, found.silent) == (5, 0, 0)
    table = {one.name: one for one in found.figures(resamples=20)}
    assert table["filter"].auroc.value > 0.7
    assert {"position in the answer", "length of the answer"} < {*table}


def test_claims_of_mhalubench_are_judged_whole(annotated, hf):
    """A claim is as likely wrong as any of its mentions is, and stands where its answer has it."""
    cases = mhalubench(annotated / "MHaluBench_train.json", annotated)
    found = judged(hf, cases)
    assert found.wrong == (False, True) * 4
    assert found.position == (0, 1) * 4
    assert set(found.part) == {"scenes"}
    report = hf.check(cases[1].image, "Describe the image.", cases[1].response)
    a, b = (one.p for one in report.mentions)
    assert found.p[1] == pytest.approx(1 - (1 - a) * (1 - b), abs=1e-5)
    assert {one.name: one for one in found.figures(resamples=20)}["filter"].auroc.value > 0.8
    mixed = [*cases, *pope_like(annotated)]
    with pytest.raises(ValueError, match="8 of 9 questions have an answer"):
        judged(hf, mixed)


def pope_like(annotated):
    (annotated / "q.json").write_text(json.dumps({"image": "VG_100K_2/1.jpg", "text": "?", "label": "no"}) + "\n")
    return pope(annotated / "q.json", annotated)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"annotations": {"object": [{"obj": {"name": "x"}}]}}, "HalLoc's layout: KeyError"),
        ({"annotations": {"object": [{"obj": {"char_index": "3:999"}}]}}, "characters that the text of 'x1' has not"),
        ({"annotations": {"object": [{"obj": {"char_index": "a:b"}}]}}, "HalLoc's layout: ValueError"),
    ],
)
def test_rows_that_are_none_of_halloc(annotated, tmp_path, change, says):
    row = json.loads((annotated / "halloc_caption.json").read_text())[0]
    (tmp_path / "h.json").write_text(json.dumps([row | change]))
    with pytest.raises(ValueError, match=says):
        halloc(tmp_path / "h.json", annotated)


def test_annotations_and_labels_that_are_none(annotated, tmp_path):
    with pytest.raises(ValueError, match=r"unknown type of annotations in HalLoc 'objects'.*object"):
        halloc(annotated / "halloc_caption.json", annotated, ["objects"])
    with pytest.raises(FileNotFoundError, match="no picture '1' in"):
        halloc(annotated / "halloc_caption.json", tmp_path)
    for content, says in (
        ({}, "a list of objects"),
        ([{"id": 1}], "KeyError"),
        ([{"image_path": "a.png", "claim_list": ["x"], "ref_claim_label": ["maybe"]}], "KeyError"),
        ([{"image_path": "a.png", "claim_list": ["x", "y"], "ref_claim_label": ["hallucination"]}], "ValueError"),
    ):
        (tmp_path / "m.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"MHaluBench's layout: {says}"):
            mhalubench(tmp_path / "m.json", annotated)
