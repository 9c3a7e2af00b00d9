"""Mentions of scenes and their exact labels: right answers are supported, others are not."""

import pytest

import vtokens
from vtokens import scenes
from vtokens.filter.calibrators.labels import label_scenes
from vtokens.filter.mentions import Mention, get_extractor
from vtokens.filter.trace.offsets import token_spans
from vtokens.scenes.world import Scene, Thing

EXTRACT = get_extractor("scenes")
BOX = (0, 0, 8, 8)
SCENE = Scene(
    "test", 0, 0, 0,
    (
        Thing("circle", "red", 0, 0, BOX),
        Thing("square", "blue", 0, 1, BOX, visible=False),
        Thing("ring", "red", 3, 2, BOX),
    ),
    (Thing("digit", "black", 1, 1, BOX, digit=7, glyph=0),),
)  # fmt: skip


def claims(text, prompt=""):
    return [(m.text, m.kind, m.name, m.negated) for m in EXTRACT(text, prompt)]


def labels(text, prompt=""):
    return label_scenes(SCENE, EXTRACT(text, prompt))


def test_a_caption():
    found = EXTRACT("red circle , blue square , red circle")
    assert [m.name for m in found] == ["red circle", "blue square", "red circle"]
    assert [(m.kind, m.sentence, m.order, m.repeat) for m in found] == [
        ("object", 0, 0, False), ("object", 1, 1, False), ("object", 2, 2, True),
    ]  # fmt: skip
    assert label_scenes(SCENE, found) == [False, True, False]  # the blue square is annotated, but not to be seen


@pytest.mark.parametrize(
    ("prompt", "answer", "claim", "wrong"),
    [
        ("Is there a red circle in the image?", "yes", ("yes", "object", "red circle", False), False),
        ("Is there a red circle in the image?", "no", ("no", "object", "red circle", True), True),
        ("Is there a blue square in the image?", "Yes.", ("Yes", "object", "blue square", False), True),
        ("is there a blue square?", "no", ("no", "object", "blue square", True), False),
        ("Where is the red ring?", "row4 column3", ("row4 column3", "relation", "red ring at row4 column3", False), False),  # noqa: E501
        ("Where is the red ring?", "row4 column2", ("row4 column2", "relation", "red ring at row4 column2", False), True),  # noqa: E501
        ("What is at row1 column1?", "red circle", ("red circle", "object", "red circle at row1 column1", False), False),  # noqa: E501
        ("What is at row1 column1?", "red ring", ("red ring", "object", "red ring at row1 column1", False), True),
        ("What is at row2 column3?", "nothing", ("nothing", "count", "nothing at row2 column3", False), False),
        ("What is at row1 column1?", "nothing", ("nothing", "count", "nothing at row1 column1", False), True),
        ("What colour is at row4 column3?", "red", ("red", "attribute", "red at row4 column3", False), False),
        ("What colour is at row4 column2?", "red", ("red", "attribute", "red at row4 column2", False), True),
        ("What color is the circle?", "blue", ("blue", "attribute", "blue circle", False), True),
        ("What shape is red?", "square", ("square", "object", "red square", False), True),
        ("How many objects are there?", "two", ("two", "count", "two objects", False), False),
        ("How many red objects are there?", "3", ("3", "count", "three red objects", False), True),
        ("How many crosses are there?", "zero", ("zero", "count", "zero crosses", False), False),
        ("What digit is at row2 column2?", "seven", ("seven", "text", "digit seven at row2 column2", False), False),
        ("What digit is at row2 column2?", "one", ("one", "text", "digit one at row2 column2", False), True),
    ],
)  # fmt: skip
def test_an_answer_claims_what_was_asked(prompt, answer, claim, wrong):
    for asked in (prompt, f"<bos>USER: <image>\n{prompt} ASSISTANT:", prompt.lower()):
        assert claims(answer, asked) == [claim]
        assert labels(answer, asked) == [wrong]


def test_of_several_questions_the_last_is_answered():
    talk = "USER: What colour is the circle? ASSISTANT: red USER: What shape is red? ASSISTANT:"
    assert claims("ring", talk) == [("ring", "object", "red ring", False)]


@pytest.mark.parametrize(
    ("text", "found", "wrong"),
    [
        ("two circles and no diamond", ["two circles", "circle", "diamond"], [True, False, False]),
        ("a red ring at row4 column3", ["red ring", "red ring at row4 column3"], [False, False]),
        ("something green; digit seven", ["green", "digit seven"], [True, False]),
        ("there are three objects .", ["three objects"], [True]),
        ("Red Circle 👍 犬 a dog", ["red circle"], [False]),
        ("👍 犬 🇫🇷", [], []),
        ("The red circle is above the red ring. A dog.", ["red circle above red ring"], [False]),
        ("a ring to the left of a red circle", ["ring left of red circle"], [True]),
        ("the ring is not next to the circle", ["ring beside circle"], [False]),
        ("red ring under a blue square", ["red ring below blue square"], [True]),  # the square is not to be seen
        ("a red fox and a red", ["red"], [False]),  # a fox's colour is nothing that can be looked up
        ("", [], []),
    ],
)
def test_sentences_by_themselves(text, found, wrong):
    assert [m.name for m in EXTRACT(text)] == found
    assert labels(text) == wrong
    assert all(text[m.start : m.end] == m.text for m in EXTRACT(text))


@pytest.mark.parametrize("split", ["test", "hard", "partner-removed"])
def test_right_answers_to_every_kind_of_question_are_supported(split):
    drawn = [e for kind in scenes.ALL_KINDS for e in scenes.examples(split, n=12, kinds=[kind])]
    for example in drawn:
        found = EXTRACT(example.answer, example.question)
        assert found
        assert not any(label_scenes(example, found)), (example.question, example.answer)


def test_answers_about_another_scene_are_found_out():
    """As often as the labels say, by an independent look at the scene: the questions' own answers."""
    drawn = scenes.examples("test", n=60, kinds=["exist", "at", "count_all"])
    for example, other in zip(drawn, drawn[3:], strict=False):
        wrong = label_scenes(example, EXTRACT(other.answer, example.question))
        assert wrong == [other.answer != example.answer]


def test_tokens_of_mentions_in_what_the_model_wrote():
    """From genuine generated ids: the tokens of a mention spell it, special tokens belong to none."""
    model, processor = vtokens.load("scenes-llava")
    drawn = scenes.examples("test", n=4, kinds=["caption", "where"])
    asked = [scenes.prompt(processor, example.question) for example in drawn]
    inputs = processor(images=[e.image for e in drawn], text=asked, padding=True, return_tensors="pt")
    written = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    for example, ids in zip(drawn, written.tolist(), strict=True):
        text, spans = token_spans(processor.tokenizer, ids)
        assert text == processor.decode(ids, skip_special_tokens=True)
        found = [mention.with_tokens(spans) for mention in EXTRACT(text, example.question)]
        assert found
        for mention in found:
            spelt = processor.tokenizer.convert_ids_to_tokens([ids[i] for i in mention.tokens])
            assert " ".join(spelt) == mention.text


def test_a_name_that_is_not_of_scenes():
    for name in (
        "dog left of circle",
        "red circle behind red ring",
        "left of red ring",
        "dog",
        "red dog",
        "red circle at row9 column1",
        "three",
        "",
    ):
        with pytest.raises(ValueError, match="claims nothing about scenes"):
            label_scenes(SCENE, [Mention(0, 1, "x", "object", name)])
