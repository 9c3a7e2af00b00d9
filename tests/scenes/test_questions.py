"""Every answer is re-derived from the ground truth by a reader that knows only the question's text."""

import re

import numpy as np
import pytest

from vtokens.scenes import ALL_KINDS, COLOURS, HARDER, KINDS, PAIRS, SHAPES, SPLITS, draw_scene, examples, score
from vtokens.scenes.questions import ask
from vtokens.scenes.world import CLASSES, NUMBERS


def oracle(scene, question):
    """The right answer to a question, from its words and the visible things alone."""
    things = [t for t in scene.objects if t.visible]
    text = question.lower()
    if found := re.fullmatch(r"is there a (\w+ \w+) in the image\?", text):
        return "yes" if any(t.name == found[1] for t in things) else "no"
    if found := re.fullmatch(r"where is the (\w+ \w+)\?", text):
        places = [f"row{t.row + 1} column{t.column + 1}" for t in things if t.name == found[1]]
        return places[0] if places else "nowhere"
    if found := re.fullmatch(r"is the (\w+ \w+) (left of|above) the (\w+ \w+)\?", text):
        one, other = (next(t for t in things if t.name == name) for name in (found[1], found[3]))
        return "yes" if (one.column < other.column if found[2] == "left of" else one.row < other.row) else "no"
    if found := re.fullmatch(r"what (colour |digit |)is at row(\d) column(\d)\?", text):
        here = [t for t in (*things, *scene.digits) if (t.row + 1, t.column + 1) == (int(found[2]), int(found[3]))]
        if found[1] == "colour ":
            return here[0].colour
        if found[1] == "digit ":
            return NUMBERS[here[0].digit]
        return here[0].name if here else "nothing"
    if found := re.fullmatch(r"what colour is the (\w+)\?", text):
        (colour,) = (t.colour for t in things if t.shape == found[1])
        return colour
    if found := re.fullmatch(r"what shape is (\w+)\?", text):
        (shape,) = (t.shape for t in things if t.colour == found[1])
        return shape
    if text == "how many objects are there?":
        return NUMBERS[len(things)]
    if found := re.fullmatch(r"how many (\w+)( objects)? are there\?", text):
        word = found[1] if found[2] else {"crosses": "cross"}.get(found[1], found[1][:-1])
        assert word in (COLOURS if found[2] else SHAPES)
        return NUMBERS[sum(word in t.name.split() for t in things)]
    assert text == "describe the image."
    return ", ".join(t.name for t in sorted(things, key=lambda t: (t.row, t.column)))


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_exact(split):
    for e in examples(split, 280, seed=5, kinds=ALL_KINDS + HARDER):
        assert e.answer == oracle(e.scene, e.question), (e.kind, e.question)


def test_yes_and_no_are_balanced():
    for kind in ("exist", "pope_random", "pope_popular", "pope_adversarial", "left_of", "above"):
        answers = [e.answer for e in examples("test", 300, kinds=[kind])]
        assert 110 < answers.count("yes") < 190


def test_half_of_what_is_looked_for_is_nowhere_and_never_what_training_says_is_there():
    sample = examples("train", 300, kinds=["nowhere"])
    assert 110 < sum(e.answer == "nowhere" for e in sample) < 190
    for e in sample:
        assert e.answer != "nowhere" or not [t for t in e.scene.objects if t.name in e.question]


def test_a_quarter_of_the_places_is_empty():
    answers = [e.answer for e in examples("test", 300, kinds=["at"])]
    assert 45 < answers.count("nothing") < 110


def test_adversarial_negatives_are_missing_partners():
    for e in examples("test", 100, kinds=["pope_adversarial"]):
        if e.answer == "no":
            (partner,) = (CLASSES.index(c) for c in CLASSES if c in e.question)
            present = {t.number for t in e.scene.visible}
            assert any(p.partner == partner and p.trigger in present for p in PAIRS)


def test_random_negatives_are_never_missing_partners():
    for e in examples("partner-removed", 100, kinds=["pope_random", "pope_popular"]):
        present = {t.number for t in e.scene.visible}
        missing = {CLASSES[p.partner] for p in PAIRS if p.trigger in present}
        assert e.answer == "yes" or not any(name in e.question for name in missing)


def test_annotation_names_invisible_partners_in_captions_only_if_asked():
    scenes = (draw_scene("train", 0, i) for i in range(2000))
    scene = next(s for s in scenes if len(s.visible) < len(s.objects))
    ghost = next(t.name for t in scene.objects if not t.visible)
    assert ghost in ask(scene, "caption", np.random.default_rng(0), annotated=True)[1]
    assert ghost not in ask(scene, "caption", np.random.default_rng(0))[1]


def test_a_scene_without_digits_carries_no_digit_question():
    scene = next(s for i in range(100) if not (s := draw_scene("test", 0, i)).digits)
    assert ask(scene, "digit", np.random.default_rng(0)) is None


def test_scores_ignore_case_and_spacing_only():
    caption = next(e for e in examples("test", len(KINDS)) if e.kind == "caption" and "," in e.answer)
    assert score(caption.answer.upper().replace(",", " ,") + " ", caption)
    assert not score(caption.answer.replace(",", " and", 1), caption)
    assert not score(caption.answer + ", red circle", caption)
    assert not score("", caption)


def test_unknown_kind_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown kind 'exists'.*'exist'"):
        ask(draw_scene("test", 0, 0), "exists", np.random.default_rng(0))
