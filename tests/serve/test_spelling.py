"""The text of an answer while it is written, against the text of all of its tokens."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vtokens.serve.spelling import Decoder, Spelling, spelled
from vtokens.serve.writing import Writer


@lru_cache
def byte_level() -> Any:
    """A byte-level tokenizer: a token a byte, a few pairs, two special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: number for number, char in enumerate(alphabet)}
    merges = [("a", "b"), ("Ġ", "a"), ("Ã", "©"), ("ab", "ab")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")


def said(spelling: Spelling, ids: list[int]) -> tuple[str, list[Any]]:
    """The text and tokens that are sent, piece by piece: none of them more than has been written."""
    text, tokens = "", []
    for number, token in enumerate(ids):
        if (piece := spelling.push(token, -float(number), ((token, 0.0),))) is not None:
            text, tokens = text + piece.text, [*tokens, *piece.tokens]
        if spelling.stopped:
            return text, tokens
    if (piece := spelling.flush()) is not None:
        text, tokens = text + piece.text, [*tokens, *piece.tokens]
    return text, tokens


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(0, 261), max_size=24))
def test_any_tokens_add_up_to_their_text(ids: list[int]) -> None:
    """Bytes that are no character, characters that are cut off, special tokens in between."""
    tokenizer = byte_level()
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    text, tokens = said(Spelling(tokenizer), ids)
    assert text == whole
    assert [token.id for token in tokens] == ids
    assert "".join(token.text for token in tokens) == whole
    assert [token.logprob for token in tokens] == [-float(number) for number in range(len(ids))]


@settings(max_examples=150, deadline=None)
@given(
    text=st.text("ab é🦊", max_size=20),
    stops=st.lists(st.text("ab é🦊", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_end_the_text_before_them(text: str, stops: list[str]) -> None:
    """Wherever tokens end: the text is that before the first stop string, and the tokens are those that begin in it."""
    tokenizer = byte_level()
    ids = tokenizer(text)["input_ids"]
    ends = [text.find(stop) for stop in stops if stop in text]
    first = next(
        (end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)), None
    )  # where the earliest to be complete ends
    spelling = Spelling(tokenizer, stops)
    got, tokens = said(spelling, ids)
    assert spelling.stopped == bool(ends)
    if first is None:
        assert got == text
        assert [token.id for token in tokens] == ids
        return
    assert text.startswith(got)
    assert not any(stop in got for stop in stops)
    # Of the stop strings within the token that completed one, the one that begins first.
    assert any(text[len(got) :].startswith(stop) for stop in stops)
    assert len(got) <= first
    starts = [len(tokenizer.decode(ids[:number]).rstrip("\ufffd")) for number in range(len(ids))]
    assert [token.id for token in tokens] == [one for one, start in zip(ids, starts, strict=True) if start < len(got)]


@settings(max_examples=100, deadline=None)
@given(
    text=st.text("ab é🦊", max_size=16),
    stops=st.lists(st.text("ab é🦊", min_size=1, max_size=4), max_size=3),
)
@example("abba", ["bc"])
def test_a_reader_is_given_all_of_the_text(text: str, stops: list[str]) -> None:
    """Also what waited because a stop string might have begun inside of a token."""
    tokenizer, read = byte_level(), list[str]()

    class Takes:
        def begin(self) -> list[Any]:
            return []

        def feed(self, text: str) -> list[Any]:
            read.append(text)
            return []

        end = begin

    ids, end = tokenizer(text)["input_ids"], tokenizer.eos_token_id
    spelling, writer = Spelling(tokenizer, stops), Writer("", 0, lambda id: ("|", b"|"), Takes(), [end])
    pieces = [spelling.push(id) for id in (end, *ids, end) if not spelling.stopped]
    pieces.append(None if spelling.stopped else spelling.flush())
    for piece in filter(None, pieces):
        writer.feed(piece)
    whole = "".join(piece.text for piece in pieces if piece is not None)
    assert "".join(read).replace("|", "") == whole
    assert spelling.stopped or "".join(read) == f"|{text}|"


def test_text_that_may_become_a_stop_string_waits() -> None:
    tokenizer, ids = byte_level(), byte_level()("aaab b")["input_ids"]
    spelling = Spelling(tokenizer, ["aab!", "b b"])
    sent = [spelling.push(token) for token in ids]
    assert [piece and piece.text for piece in sent] == [None, None, "a", "aa", None]
    assert spelling.stopped


def test_no_piece_ends_inside_a_character() -> None:
    tokenizer = byte_level()
    decoder = Decoder(tokenizer)
    ids = tokenizer("é🦊x", add_special_tokens=False)["input_ids"]
    pieces = [decoder.push(token) for token in ids]
    assert [piece for piece in pieces if piece] == ["é", "🦊", "x"]
    cut = Decoder(tokenizer)
    assert [cut.push(token) for token in ids[:3]] == ["é", "", ""]
    assert cut.rest() == "\ufffd"


@pytest.mark.parametrize("slow", [False, True])
def test_decoders_without_a_stream_agree(slow: bool) -> None:
    """Tokenizers that are not of the tokenizers library are asked for all of the text each time."""
    decoder = Decoder(byte_level())
    if slow:
        decoder._stream = None
    ids = byte_level()("ab é 🦊 abab")["input_ids"]
    assert "".join(decoder.push(token) for token in ids) + decoder.rest() == "ab é 🦊 abab"


def test_a_token_by_itself_is_told_with_its_bytes() -> None:
    tokenizer = byte_level()
    ids = tokenizer("🦊")["input_ids"]
    assert b"".join(spelled(tokenizer, token)[1] for token in ids).decode() == "🦊"
    assert spelled(tokenizer, tokenizer("ab")["input_ids"][0]) == ("ab", b"ab")
    assert spelled(tokenizer, tokenizer.eos_token_id)[0] == "<end>"
