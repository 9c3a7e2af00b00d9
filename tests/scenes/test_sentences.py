"""Questions that ask for sentences: the sentence says what the word said."""

from __future__ import annotations

import pytest

from vtokens.scenes import examples, score
from vtokens.scenes.kinds import ALL_KINDS, HARDER
from vtokens.scenes.lots import draw_scene
from vtokens.scenes.questions import ask
from vtokens.scenes.sentences import described, spoken
from vtokens.scenes.world import stream

SHORT = [kind for kind in ALL_KINDS + HARDER if kind != "caption"]


@pytest.mark.parametrize("kind", SHORT)
def test_every_question_has_a_sentence_that_holds_subject_and_answer(kind):
    asked = 0
    for index in range(60):
        scene = draw_scene("partner-removed" if "adversarial" in kind else "test", 5, index)
        found = ask(scene, kind, stream("test", 5, index, 1))
        if found is None:
            continue
        asked += 1
        question, sentence = spoken(kind, *found)
        assert question == f"{found[0]} Answer in a sentence."
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        words = sentence.lower().rstrip(".").replace(",", "").split()
        for word in (
            {"zero": "no" if kind.startswith("count") else "zero", "nowhere": "no"}.get(found[1], found[1])
        ).split():
            assert word in words
        names = {w for t in scene.objects for w in (t.colour, t.shape)}
        assert {w for w in found[0].lower().rstrip("?").split() if w in names} <= set(words)
    assert asked > 10


@pytest.mark.parametrize(
    ("kind", "question", "answer", "sentence"),
    [
        ("exist", "Is there a red ring in the image?", "no", "No, there is no red ring in the image."),
        ("pope_popular", "Is there a red ring in the image?", "yes", "Yes, there is a red ring in the image."),
        ("above", "Is the red ring above the blue cross?", "no", "No, the red ring is not above the blue cross."),
        ("left_of", "Is the red ring left of the blue cross?", "yes", "Yes, the red ring is left of the blue cross."),
        ("nowhere", "Where is the red ring?", "nowhere", "There is no red ring in the image."),
        ("nowhere", "Where is the red ring?", "row1 column2", "The red ring is at row1 column2."),
        ("at", "What is at row1 column2?", "nothing", "There is nothing at row1 column2."),
        ("at", "What is at row1 column2?", "red ring", "There is a red ring at row1 column2."),
        ("count_shape", "How many crosses are there?", "one", "There is one cross in the image."),
        ("count_shape", "How many crosses are there?", "zero", "There are no crosses in the image."),
        ("count_colour", "How many red objects are there?", "two", "There are two red objects in the image."),
        ("count_all", "How many objects are there?", "one", "There is one object in the image."),
    ],
)
def test_sentences(kind, question, answer, sentence):
    assert spoken(kind, question, answer)[1] == sentence


def test_a_caption_is_one_sentence_a_thing_in_raster_order():
    scene = next(s for s in (draw_scene("test", 1, i) for i in range(50)) if len(s.visible) == 3)
    question, caption = described(scene.visible[::-1])
    assert question == "Describe the image in sentences."
    told = [f"There is a {t.name} at row{t.row + 1} column{t.column + 1}." for t in scene.visible]
    assert caption == " ".join(told)


def test_examples_ask_for_sentences_about_the_same_scenes():
    words, sentences = examples("test", 22), examples("test", 22, sentences=True)
    for word, sentence in zip(words, sentences, strict=True):
        assert (word.scene, word.kind) == (sentence.scene, sentence.kind)
        assert word.image.tobytes() == sentence.image.tobytes()
        if word.kind == "caption":
            assert (sentence.question, sentence.answer) == described(word.scene.visible)
        else:
            assert (sentence.question, sentence.answer) == spoken(word.kind, word.question, word.answer)
        assert score(sentence.answer.lower(), sentence)
        assert not score(word.answer, sentence)


def test_what_has_no_sentence_is_refused():
    with pytest.raises(ValueError, match=r"unknown kind 'wher'\. Did you mean 'where'\?"):
        spoken("wher", "Where is the red ring?", "row1 column1")
    with pytest.raises(ValueError, match="is no question of kind 'where'"):
        spoken("where", "Is there a red ring in the image?", "yes")
