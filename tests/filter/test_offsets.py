"""Spans of generated ids: the text is what the tokenizer decodes, and every character belongs to who wrote it."""

import random
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.filter.tokenizers_made import CORPUS, MADE, respelt
from vtokens.filter.trace.offsets import _built, by_prefixes, encode_with_spans, moved, token_spans

KNOWN = [name for name in MADE if name not in ("word piece", "slow, bytes")]
TEXTS = st.one_of(
    st.sampled_from([line[at : at + 30] for line in CORPUS for at in range(0, len(line), 30)]),
    st.text(st.sampled_from("abc dog, ß日本é👍🏽🇫🇷👩‍👩‍👧 \n\u00a0\u202e"), max_size=30),
    st.text(max_size=20),
)


@cache
def made(name):
    return MADE[name]()


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def check(tokenizer, ids, spans, text):
    """What holds of any tokenizer: order, full cover, and ends where the decoded prefixes end."""
    assert len(spans) == len(ids)
    assert [a for a, _ in spans] == sorted(a for a, _ in spans)
    assert all(0 <= a <= b <= len(text) for a, b in spans)
    covered = {i for a, b in spans for i in range(a, b)}
    assert {i for i, c in enumerate(text) if not c.isspace()} <= covered
    before = ""
    for i in range(1, len(ids)):
        last, before = before, decoded(tokenizer, ids[:i])
        if before != last and text.startswith(before) and "\ufffd" not in before[-1:]:
            assert max(b for _, b in spans[:i]) == len(before)
            assert all(a >= len(before) for a, b in spans[i:] if b > a)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.fuzz
@given(data=st.data())
def test_text_and_spans_of_any_spelling(name, data):
    tokenizer = made(name)
    ids = tokenizer(data.draw(TEXTS), add_special_tokens=False)["input_ids"]
    ids = respelt(tokenizer, ids, random.Random(data.draw(st.integers(0, 10**6))))
    text, spans = token_spans(tokenizer, ids)
    assert text == decoded(tokenizer, ids)
    check(tokenizer, ids, spans, text)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.fuzz
@given(data=st.data())
def test_any_ids_at_all(name, data):
    """What a model could generate: halves of characters, special tokens in the middle, ids that mean nothing."""
    tokenizer = made(name)
    beyond = -1 if name == "slow, bytes" else 5  # the slow one raises for ids out of range
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) + beyond), max_size=24))
    text, spans = token_spans(tokenizer, ids)
    assert text == decoded(tokenizer, ids)
    assert len(spans) == len(ids)
    assert all(0 <= a <= b <= len(text) for a, b in spans)
    assert {i for i, c in enumerate(text) if not c.isspace()} <= {i for a, b in spans for i in range(a, b)}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.fuzz
@given(ids=st.lists(st.integers(0, 250), max_size=16))
@example(ids=[])
def test_the_decoders_of_the_families_are_followed_step_by_step(name, ids):
    """Without falling back on prefixes; and where no character is cut, both ways agree."""
    tokenizer = made(name)
    ids = [i for i in ids if i < len(tokenizer)]
    text = decoded(tokenizer, ids)
    built = _built(tokenizer, ids, text)
    assert built is not None
    if "\ufffd" not in text and name == "byte level":
        assert [text[a:b] for a, b in by_prefixes(tokenizer, ids) if a < b] == [text[a:b] for a, b in built if a < b]


def test_words_of_the_embedded_model():
    tokenizer = made("word level")
    ids = [*tokenizer("red circle, blue square").input_ids, tokenizer.eos_token_id, tokenizer.pad_token_id]
    text, spans = token_spans(tokenizer, ids)
    assert text == "red circle , blue square"
    assert [text[a:b] for a, b in spans] == ["red", "circle", ",", "blue", "square", "", ""]
    shown = "Red circle, blue square."[:-1]
    assert [shown[a:b] for a, b in token_spans(tokenizer, ids, shown)[1]] == [
        "Red", "circle", ",", "blue", "square", "", "",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["byte level", "byte fallback", "slow, bytes"])
def test_the_tokens_of_one_emoji_share_it(name):
    tokenizer = made(name)
    ids = tokenizer("a 👍 b", add_special_tokens=False)["input_ids"]
    text, spans = token_spans(tokenizer, ids)
    assert text == "a 👍 b"
    assert sum("👍" in text[a:b] for a, b in spans) >= 4  # one a byte


def test_added_tokens_outside_the_byte_alphabet_are_written_as_they_are():
    tokenizer = made("byte level")
    ids = tokenizer("a日本[tool]b", add_special_tokens=False)["input_ids"]
    text, spans = token_spans(tokenizer, ids)
    assert [text[a:b] for a, b in spans] == ["a", "日本", "[tool]", "b"]


@pytest.mark.parametrize("name", [n for n in MADE if n != "word level"])
def test_special_tokens_write_nothing_wherever_they_stand(name):
    tokenizer = made(name)
    words = tokenizer("dog cat", add_special_tokens=False)["input_ids"]
    ids = [tokenizer.eos_token_id, *words, tokenizer.eos_token_id, *words, tokenizer.eos_token_id]
    text, spans = token_spans(tokenizer, ids)
    assert text == decoded(tokenizer, ids)
    assert [spans[i][1] - spans[i][0] for i in (0, len(words) + 1, -1)] == [0, 0, 0]


@pytest.mark.parametrize("name", ["byte level", "byte fallback", "slow, bytes"])
@pytest.mark.parametrize("text", ["A dog.", "犬 и 👍🏽", "", "  two  spaces "])
def test_a_response_written_elsewhere(name, text):
    tokenizer = made(name)
    ids, spans = encode_with_spans(tokenizer, text)
    assert decoded(tokenizer, ids) == text
    written = {i for a, b in spans for i in range(a, b)}
    assert {i for i, c in enumerate(text) if not c.isspace()} <= written


def test_another_text_than_the_ids_is_refused():
    tokenizer = made("word level")
    with pytest.raises(ValueError, match="'blue circle' is not the text of the tokens, 'red circle'"):
        token_spans(tokenizer, tokenizer("red circle").input_ids, "blue circle")


@pytest.mark.fuzz
@given(words=st.lists(st.text("abcß犬👍", min_size=1, max_size=4), max_size=6), seed=st.integers(0, 99))
def test_spans_follow_changes_of_space_and_case(words, seed):
    pick, at, text, spans = random.Random(seed), 0, "", []
    for word in words:
        text += word + " " * pick.randrange(3)
        spans.append((at, at + len(word)))
        at = len(text)
    other = "".join(c.upper() if c in "abc" else c + " " * pick.randrange(2) for c in text if not c.isspace())
    for word, (a, b) in zip(words, moved(text, spans, other), strict=True):
        assert other[a:b].replace(" ", "").lower() == word.lower()
