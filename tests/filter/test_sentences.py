"""Sentences and clauses: where people would cut, nothing lost, and stable while a text grows."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.filter.sentences import clauses, get_splitter, split

TEXTS = st.text(st.sampled_from("ab A1.!?,;… \n\"')。、é👍-*"), max_size=40)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("A dog. A cat!", ["A dog.", "A cat!"]),
        ("  One  \n\n two ", ["One", "two"]),
        ("It costs 3.50 dollars. Cheap?", ["It costs 3.50 dollars.", "Cheap?"]),
        ("Mr. Smith and J. Doe, e.g. at 5 p.m. on a bus.", ["Mr. Smith and J. Doe, e.g. at 5 p.m. on a bus."]),
        ("No. There are cups, etc. The end.", ["No.", "There are cups, etc.", "The end."]),
        ('The sign says "Stop." A car waits.', ['The sign says "Stop."', "A car waits."]),
        ("1. A dog.\n2. A cat.\n- a bird", ["1. A dog.", "2. A cat.", "- a bird"]),
        ("Wait... what?! (Yes.) No", ["Wait...", "what?!", "(Yes.)", "No"]),
        ("狗在跑。猫在睡！", ["狗在跑。", "猫在睡！"]),
        ("Собака бежит. 👍 Да.", ["Собака бежит.", "👍 Да."]),
        ("there is a red circle . there is a blue ring .", ["there is a red circle .", "there is a blue ring ."]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences(text, parts):
    assert [text[a:b] for a, b in split(text)] == parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("red circle , blue ring .", ["red circle", "blue ring"]),
        ("red circle, blue ring", ["red circle", "blue ring"]),
        ("1,000 birds; 犬、猫。a", ["1,000 birds", "犬", "猫", "a"]),
        (", ,", []),
    ],
)
def test_clauses(text, parts):
    assert [text[a:b] for a, b in clauses(text)] == parts


@pytest.mark.fuzz
@given(text=TEXTS)
def test_spans_are_in_order_and_nothing_is_lost(text):
    for splitter, outside in ((split, ""), (clauses, ".,;!?…。、")):
        spans = splitter(text)
        assert all(a < b for a, b in spans)
        assert all(b <= c for (_, b), (c, _) in pairwise(spans))
        assert all(text[a:b] == text[a:b].strip() for a, b in spans)
        inside = {i for a, b in spans for i in range(a, b)}
        assert all(c.isspace() or c in outside for i, c in enumerate(text) if i not in inside)


@pytest.mark.fuzz
@given(text=TEXTS, end=st.integers(0, 40))
def test_all_but_the_last_stay_while_the_text_grows(text, end):
    for splitter in (split, clauses):
        before = splitter(text[:end])[:-1]
        assert splitter(text)[: len(before)] == before


def test_splitters_by_name():
    assert get_splitter("clauses") is clauses
    assert get_splitter(split) is split
    with pytest.raises(ValueError, match="Did you mean 'sentences'"):
        get_splitter("sentence")
