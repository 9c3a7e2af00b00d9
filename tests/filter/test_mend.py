"""What is left of a text reads on: lists, their leads and their conjunctions, and streams that show the same."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.filter.test_actions import report as clauses_report
from vtokens.filter.actions.action import Outcome, apply, without
from vtokens.filter.actions.mend import pieces
from vtokens.filter.actions.regenerate import JudgedResponse
from vtokens.filter.actions.stream import live
from vtokens.filter.judged import Judged
from vtokens.filter.mentions.base import Found, arrange
from vtokens.filter.report import ResponseReport
from vtokens.filter.sentences import clauses, split

LISTED = "There is a red circle, a blue square, and a dog. A cat sleeps."


@pytest.mark.parametrize(
    ("text", "drop", "left"),
    [
        (LISTED, [0], "There is a blue square and a dog. A cat sleeps."),
        (LISTED, [1], "There is a red circle and a dog. A cat sleeps."),
        (LISTED, [2], "There is a red circle and a blue square. A cat sleeps."),
        (LISTED, [0, 2], "There is a blue square. A cat sleeps."),
        (LISTED, [0, 1, 2], "A cat sleeps."),
        (LISTED, [3], "There is a red circle, a blue square, and a dog."),
        ("There are two cats, a dog, a bird, and a man.", [0, 1, 2], "There is a man."),
        ("There is a dog, two cats and a bird.", [0], "There are two cats and a bird."),
        ("The image shows a man, a dog, and a cat.", [2], "The image shows a man and a dog."),
        ("There is a dog, which is brown, and a cat.", [0], "There is a cat."),
        ("There are no dogs, cats, or birds. A man waits.", [0], "A man waits."),  # "there are cats" it never said
        ("A man rides a horse, holding a lamp.", [0], ""),
        ("A man rides a horse, holding a lamp.", [1], "A man rides a horse."),
        ("A man, a dog and a cat are playing.", [0], ""),
        ("A red circle, a blue ring.", [0], "A blue ring."),
        ("red circle , blue ring , green cross", [1], "red circle , green cross"),
        ("red circle, blue ring. red cross, blue cross.", [1], "red circle. red cross, blue cross."),
    ],
)
def test_what_is_left_reads_on(text, drop, left):
    spans = clauses(text)
    assert without(text, spans, [number in drop for number in range(len(spans))]).strip() == left


def test_sentences_are_left_as_they_were_and_go_whole():
    text = " One dog. Two cats, here.\nThree. "
    assert without(text, split(text), [False, True, False]) == " One dog. Three. "
    shown, end = pieces(text, split(text), [False] * 3)
    assert "".join([*shown, end]) == text


def report(text, flagged, splitter=clauses):
    spans = splitter(text)
    found = [Found(a, b, "object", text[a:b]) for a, b in spans]
    judged = tuple(
        Judged(mention, 0.9 * (i in flagged), 0.9 * (i in flagged), {}, i in flagged)
        for i, mention in enumerate(arrange(text, found, spans))
    )
    return ResponseReport("?", text, judged, tuple(spans), True, 0.5)


def test_what_cannot_stand_alone_is_among_the_edits():
    done = apply(report("A man, a dog and a cat are playing.", {0}), "redact")
    assert done.text == ""
    assert [edit.before for edit in done.edits] == ["A man", "a dog and a cat are playing"]
    assert [edit.p for edit in done.edits] == pytest.approx([0.9, 0.0])


WORDS = st.sampled_from(
    ["There is", "The image shows", "a dog", "two cats", "and a bird", "red ring", "which is old", "A man", "waits",
     ", ", ", and ", ". ", " "]
)  # fmt: skip


@pytest.mark.fuzz
@given(st.lists(WORDS, min_size=1, max_size=12).map("".join), st.data())
def test_a_stream_shows_what_redact_leaves(text, data):
    """Clause by clause, while the text grows: what was shown is never taken back, and is the same in the end."""
    text = text.strip()
    spans = clauses(text)
    assume(spans)
    flagged = {i for i in range(len(spans)) if data.draw(st.booleans())}
    whole = JudgedResponse(report(text, flagged), [], [])

    def write(heard):
        for number in range(1, len(spans)):
            so_far = text[: spans[number][1]]  # the next clause has begun
            heard(JudgedResponse(report(so_far, flagged), [], []), number)
        return whole

    events = list(live(write, lambda *_: Outcome("", "", whole.report), "redact"))
    assert "".join(event.text for event in events).strip() == apply(whole.report, "redact").text
    assert len([event for event in events if event.before]) == len(spans)


def test_a_list_of_items_streams_item_by_item():
    """Nothing waits where nothing has to be mended."""
    found = clauses_report("red circle, blue square, green ring", [0.1, 0.9, 0.1])
    seen = []

    def write(heard):
        for number in range(1, 3):
            heard(JudgedResponse(found, [], []), number)
            seen.append(number)
        return JudgedResponse(found, [], [])

    events = live(write, lambda *_: Outcome("", "", found), "redact")
    assert next(events).text == "red circle"
    assert [event.text for event in events] == ["", ", green ring"]
