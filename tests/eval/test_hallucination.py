"""POPE and CHAIR on scenes: the exam, the reading of captions, and a real model under a strategy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vtokens
from vtokens import scenes
from vtokens.eval import hallucination
from vtokens.eval.hallucination import exam, examine, grade, mentioned, visible
from vtokens.eval.metrics import chair, pope, wilson
from vtokens.scenes import CLASSES, PAIRS


@pytest.fixture(scope="module")
def shipped():
    """The shipped model and its processor."""
    model, processor = vtokens.load("scenes-llava", strategy="none", dtype=torch.float32)
    return model.eval(), processor


@given(st.lists(st.sampled_from(CLASSES)))
def test_captions_are_read_exactly(names):
    """The right caption's wording, the tokenizer's spacing and capitals: the same objects."""
    for text in (", ".join(names), " , ".join(names).upper(), " ,".join(names) + "\n"):
        assert mentioned(text) == names


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("purple square purple diamond , red ring", ["purple square", "purple diamond", "red ring"]),
        ("red , circle", []),
        ("red red circle circle", ["red circle"]),
        ("how many blue squares", []),
        ("cyan row1 column1", []),
        ("", []),
    ],
)
def test_damaged_captions(caption, objects):
    assert mentioned(caption) == objects


def test_the_right_caption_names_what_is_visible():
    for split in scenes.SPLITS:
        for example in exam(split, questions=0, captions=40):
            assert set(mentioned(example.answer)) == visible(example)
            assert len(mentioned(example.answer)) == len(visible(example))


def test_the_exam():
    asked = exam("partner-removed", questions=30, captions=20, seed=3)
    kinds = [e.kind for e in asked]
    assert kinds == ["pope_random"] * 30 + ["pope_popular"] * 30 + ["pope_adversarial"] * 30 + ["caption"] * 20
    assert {e.split for e in asked} == {"partner-removed"}
    assert exam("test", questions=0, captions=5) == exam("test", questions=0, captions=9)[:5]
    partners = {CLASSES[pair.partner] for pair in PAIRS}
    missing = [e for e in asked if e.kind == "pope_adversarial" and e.answer == "no"]
    assert missing
    assert all(any(p in e.question for p in partners - visible(e)) for e in missing)
    for wrong in ((0, 0), (-1, 5)):
        with pytest.raises(ValueError, match=f"got {wrong[0]} and {wrong[1]}"):
            exam("test", *wrong)
    with pytest.raises(ValueError, match=r"unknown split 'tests'.*'test'"):
        exam("tests")


def test_grades_are_those_of_the_metrics():
    """Always yes, and captions that name the right objects and one more: the figures follow."""
    asked = exam("test", questions=24, captions=12)
    absent = [next(name for name in CLASSES if name not in visible(e)) for e in asked]
    replies = ["Yes." if e.kind != "caption" else f"{e.answer}, {lie}" for e, lie in zip(asked, absent, strict=True)]
    found = grade(asked, replies)
    assert list(found.pope) == list(hallucination.SETTINGS) == ["random", "popular", "adversarial"]
    for setting, figures in found.pope.items():
        truths = [e.answer == "yes" for e in asked if e.kind == f"pope_{setting}"]
        assert figures == pope([True] * 24, truths)
        assert (figures.yes_ratio, figures.recall) == (wilson(24, 24), wilson(sum(truths), sum(truths)))
    told = [visible(e) for e in asked if e.kind == "caption"]
    assert found.chair == chair([[*there, "a lie"] for there in told], told)
    assert (found.chair.chair_s, found.chair.recall.value, found.unread) == (wilson(12, 12), 1.0, 0)


def test_only_what_was_asked_is_graded():
    questions, captions = exam("test", questions=2, captions=0), exam("test", questions=0, captions=3)
    assert grade(questions, ["no"] * 6).chair is None
    found = grade(captions, ["red", "red , blue ring", ", ,"])
    assert (found.pope, found.unread) == ({}, 2)
    assert found.chair.chair_i.n == 1
    with pytest.raises(ValueError, match="got 1 for 3"):
        grade(captions, ["red"])
    with pytest.raises(ValueError, match="kind 'where' are neither yes/no questions nor captions"):
        grade(scenes.examples(kinds=["where"], n=1), ["no"])


def test_a_model_under_a_strategy(shipped):
    """The shipped model sees the missing partner and little else; pruning to a twentieth at random blinds it."""
    model, processor = shipped
    asked = exam("partner-removed", questions=40, captions=20)
    plain = examine(model, processor, asked)
    assert plain.pope["random"].accuracy.value > 0.9 > plain.pope["adversarial"].precision.value
    assert plain.chair.recall.value > 0.9
    blind = examine(model, processor, asked, "random", 0.05, batch_size=20)
    assert blind.pope["random"].accuracy.value < plain.pope["random"].accuracy.value
    assert blind.chair.recall.value < 0.5
    assert vtokens.attachment(model) is None
