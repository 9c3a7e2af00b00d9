"""Chats as prompts: the same as the text that the template makes, with the pictures in their places."""

import pytest

from vtokens import scenes
from vtokens.filter import HallucinationFilter
from vtokens.filter.chats import is_chat, opened


@pytest.fixture(scope="module")
def hf():
    return HallucinationFilter.from_pretrained("scenes-llava", calibrator=None)


@pytest.fixture(scope="module")
def pair():
    return scenes.examples("test", n=2, seed=13, kinds=["exist"])


def texts(*contents):
    roles = ["user", "assistant"] * len(contents)
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


def test_one_question_is_the_question(hf, pair):
    example = pair[0]
    plain = hf.check(example.image, example.question, example.answer)
    for images, chat in (
        (example.image, texts(example.question)),
        (None, texts([{"type": "image", "image": example.image}, {"type": "text", "text": example.question}])),
        (example.image, texts([{"type": "image"}, {"type": "text", "text": example.question}])),
    ):
        found = hf.check(images, chat, example.answer)
        assert [m.p for m in found.mentions] == pytest.approx([m.p for m in plain.mentions])
        assert [m.name for m in found.mentions] == [m.name for m in plain.mentions]


def test_of_a_chat_the_last_question_is_answered(hf, pair):
    """Against the text that the template makes, written out, whose pictures stand at their tokens."""
    first, second = pair
    chat = texts(
        [{"type": "image"}, {"type": "text", "text": first.question}], first.answer,
        [{"type": "image"}, {"type": "text", "text": second.question}],
    )  # fmt: skip
    images = [first.image, second.image]
    shown, text = opened(hf.processor, images, chat)
    assert shown == images
    assert text.count(hf.processor.image_token) == 2
    assert text.index(first.answer) < text.rindex(hf.processor.image_token) < text.index(second.question)
    found, by_text = hf.check(images, chat, "yes"), hf.check(images, text, "yes")
    assert [m.p for m in found.mentions] == [m.p for m in by_text.mentions]
    assert found.mentions[0].name in second.question
    both = hf.check([images, [first.image]], [chat, first.question], ["yes", "yes"])
    assert both[0].mentions[0].p == pytest.approx(found.mentions[0].p, abs=1e-4)
    written = hf.generate(images, chat, threshold=0.5, max_new_tokens=3).text
    assert "".join(event.text for event in hf.stream(images, chat, threshold=0.5, max_new_tokens=3)) == written


@pytest.mark.parametrize(
    ("images", "chat", "error", "says"),
    [
        (1, texts("Is it?", "yes"), ValueError, "ends with what the user asks"),
        (1, [{"role": "bot", "content": "x"}], ValueError, "the role 'bot'"),
        (1, texts([{"type": "sound"}]), ValueError, "text, image or video is allowed"),
        (1, texts(3), TypeError, "text, or a list of parts"),
        (1, texts([{"type": "image"}, {"type": "image"}]), ValueError, "places for 2 pictures and videos, and 1"),
        (0, texts("Is it?"), ValueError, "shows nothing"),
    ],
)
def test_chats_that_are_none(hf, pair, images, chat, error, says):
    with pytest.raises(error, match=says):
        hf.check([pair[0].image] * images, chat, "yes")
    assert is_chat(chat)
    assert not is_chat("x")
    assert not is_chat(["x"])
