"""Actions on a report: what is dropped, what stays, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.filter.actions.action import ABSTENTION, ACTIONS, Edit, Outcome, apply, check_action, without
from vtokens.filter.actions.regenerate import JudgedResponse
from vtokens.filter.actions.stream import live
from vtokens.filter.judged import Judged
from vtokens.filter.mentions.base import Found, arrange
from vtokens.filter.report import ResponseReport


def clauses(text: str) -> list[tuple[int, int]]:
    spans, start = [], 0
    for piece in text.split(", "):
        spans.append((start, start + len(piece)))
        start += len(piece) + 2
    return spans


def report(text: str, ps: list[float], threshold: float | None = 0.5) -> ResponseReport:
    spans = clauses(text)
    found = [Found(start, end, "object", text[start:end]) for start, end in spans]
    judged = [
        Judged(mention, p, p, {}, threshold is not None and p > threshold)
        for mention, p in zip(arrange(text, found, spans), ps, strict=True)
    ]
    return ResponseReport("What is there?", text, tuple(judged), tuple(spans), True, threshold)


THREE = "red circle, blue square, green ring"


@pytest.mark.parametrize(
    ("ps", "text"),
    [
        ([0.1, 0.2, 0.3], THREE),
        ([0.9, 0.2, 0.3], "blue square, green ring"),
        ([0.1, 0.9, 0.3], "red circle, green ring"),
        ([0.1, 0.2, 0.9], "red circle, blue square"),
        ([0.9, 0.9, 0.9], ""),
    ],
)
def test_redact_drops_the_sentence(ps, text):
    done = apply(report(THREE, ps), "redact")
    assert done.text == text
    assert done.draft == THREE
    assert [e.before for e in done.edits] == [part for part, p in zip(THREE.split(", "), ps, strict=True) if p > 0.5]


def test_flag_changes_nothing_and_abstain_says_so():
    found = report(THREE, [0.1, 0.9, 0.3])
    assert [judged.text for judged in found.flagged] == ["blue square"]
    assert apply(found, "flag").text == THREE
    assert not apply(found, "flag").edits
    assert apply(found, "abstain").text == ABSTENTION
    assert apply(report(THREE, [0.1, 0.2, 0.5]), "abstain").text == THREE, "the threshold itself is allowed"


@pytest.mark.parametrize("action", ["redact", "abstain"])
def test_nothing_is_dropped_without_a_threshold(action):
    assert apply(report(THREE, [0.9, 0.9, 0.9], None), "flag").text == THREE
    with pytest.raises(ValueError, match=f"action='{action}' needs a threshold"):
        apply(report(THREE, [0.9, 0.9, 0.9], None), action)


def test_unknown_actions_name_the_nearest():
    with pytest.raises(ValueError, match="regenerate"):
        check_action("regenrate")
    with pytest.raises(ValueError, match="needs the model"):
        apply(report(THREE, [0, 0, 0]), "regenerate")
    assert [check_action(action) for action in ACTIONS] == list(ACTIONS)


@given(st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_without_equals_joining_what_is_kept(words, data):
    drop = data.draw(st.lists(st.booleans(), min_size=len(words), max_size=len(words)))
    text = ", ".join(words)
    assert without(text, clauses(text), drop) == ", ".join(w for w, gone in zip(words, drop, strict=True) if not gone)


@given(st.lists(st.sampled_from(["a dog", "a cat"]), min_size=1, max_size=5), st.data())
def test_a_stream_drops_the_sentence_and_not_its_like(words, data):
    """What a stream shows of a response with equal sentences, some of them dropped, is the outcome's text."""
    flags = st.lists(st.booleans(), min_size=len(words), max_size=len(words))
    drop = data.draw(flags.filter(any))
    found = report(", ".join(words), [0.9 if gone else 0.1 for gone in drop])
    edits = [Edit("redacted", words[i], "", 0.9, sentence=i) for i, gone in enumerate(drop) if gone]
    text = without(found.response, found.spans, drop)
    whole = JudgedResponse(found, [], [])

    def write(heard):
        heard(whole, len(words))
        return whole

    events = live(write, lambda _, __: Outcome(text, found.response, found, tuple(edits)), "regenerate")
    assert "".join(event.text for event in events) == text


def test_the_end_of_a_text_stays():
    text = "A dog. A cat. A bird. "
    spans = [(0, 6), (7, 13), (14, 21)]
    assert without(text, spans, [False, False, True]) == "A dog. A cat. "


def test_sentences_collect_their_mentions():
    found = report(THREE, [0.1, 0.9, 0.3])
    assert [s.p for s in found.sentences] == pytest.approx([0.1, 0.9, 0.3])
    assert [s.mentions for s in found.sentences] == [(0,), (1,), (2,)]
    assert found.to_dict()["sentences"][1]["text"] == "blue square"
    whole = ResponseReport("", THREE, found.mentions[:0], ((0, len(THREE)),), False)
    assert whole.sentences[0].p == 0
    assert "nothing that could be checked" in str(whole)
    with pytest.raises(IndexError, match="mention 7"):
        found.heatmap(7)
