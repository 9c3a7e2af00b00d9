"""POPE's parser and figures, against hand counts and scikit-learn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from vtokens.eval.metrics import pope, wilson, yes_no

NAMES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
QUESTIONS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("text", "says_yes"),
    [
        ("yes", True),
        ("Yes, there is a dog in the image.", True),
        ("No", False),
        ("no.", False),
        ("NO!", False),
        ("No, there is no dog", False),
        ("There is not a dog. Yes?", False),
        ("There is a dog. It is not brown.", True),
        ("Yes\nno", False),
        (". No", False),
        ("a dog", True),
        ("nothing, not at all", False),
        ("nothing", True),
        ("There isn't a dog", True),
        ("knot", True),
        ("", None),
        (" ?!_ . ", None),
    ],
)
def test_the_parser(text, says_yes):
    assert yes_no(text) is says_yes


def reference(text):
    """POPE's rule where words stand between spaces: the first sentence, commas dropped, holds No, no or not."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return not any(word in words for word in ("No", "no", "not"))


@given(st.lists(st.sampled_from(["No", "no", "not", "yes", "Yes,", "a", "dog,", "It", "is", "no."]), min_size=1))
def test_the_parser_agrees_with_the_rule_of_pope(words):
    text = " ".join(words)
    assert yes_no(text) is reference(text)


def test_a_case_counted_by_hand():
    """Of 4 there, 3 are said; of 6 not there, 2 are said: TP 3, FN 1, FP 2, TN 4."""
    truths = [True] * 4 + [False] * 6
    answers = [True, True, True, False, True, True, False, False, False, False]
    found = pope(answers, truths)
    assert (found.accuracy, found.precision, found.recall, found.yes_ratio) == (
        wilson(7, 10),
        wilson(3, 5),
        wilson(3, 4),
        wilson(5, 10),
    )
    assert found.f1 is not None
    assert found.f1.value == pytest.approx(6 / 9)
    assert found.f1.low == pytest.approx(2 * wilson(3, 6).low / (1 + wilson(3, 6).low))
    assert (found.f1.n, found.n, found.unanswered) == (10, 10, 0)


def test_an_answer_without_a_word_is_wrong_either_way():
    found = pope([None, None, True, False], [True, False, True, False])
    assert (found.accuracy, found.recall, found.precision) == (wilson(2, 4), wilson(1, 2), wilson(1, 1))
    assert (found.yes_ratio, found.unanswered) == (wilson(1, 4), 2)


def test_what_is_not_defined_is_none():
    silent = pope([False, False], [False, False])
    assert (silent.precision, silent.recall, silent.f1) == (None, None, None)
    assert silent.accuracy.value == 1
    assert pope([False], [True]).precision is None
    assert pope([False], [True]).f1.value == 0


@given(QUESTIONS)
def test_scikit_learn_agrees(questions):
    answers, truths = map(list, zip(*questions, strict=True))
    found = pope(answers, truths)
    theirs = precision_recall_fscore_support(
        truths, answers, pos_label=True, average="binary", zero_division=float("nan")
    )
    for ours, value in zip((found.precision, found.recall, found.f1), theirs[:3], strict=True):
        assert ours is None if value != value else ours.value == pytest.approx(value)
    assert found.accuracy.value == pytest.approx(sum(a == b for a, b in questions) / len(questions))
    for name in NAMES:
        interval = getattr(found, name)
        assert interval is None or 0 <= interval.low <= interval.value <= interval.high <= 1


def test_questions_about_one_picture_are_no_independent_evidence():
    """Six copies of each question leave the figures as they are; only the grouped intervals stay as wide."""
    answers, truths = [True, False, True, True, False] * 6, [True, True, False, True, False] * 6
    once = pope(answers, truths)
    copied = {"answers": [a for a in answers for _ in range(6)], "truths": [t for t in truths for _ in range(6)]}
    pictures = [i // 6 for i in range(len(copied["answers"]))]
    grouped, alone = pope(**copied, groups=pictures), pope(**copied)
    for name in NAMES:
        wide, narrow, of_one = (getattr(p, name) for p in (grouped, alone, once))
        assert wide.value == narrow.value == of_one.value
        assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
        assert wide.high - wide.low == pytest.approx(of_one.high - of_one.low, rel=0.25)


def test_bad_input():
    with pytest.raises(ValueError, match="got 0 and 0"):
        pope([], [])
    with pytest.raises(ValueError, match="got 1 and 2"):
        pope([True], [True, False])
    with pytest.raises(TypeError, match="answers must hold bools, got 'no'"):
        pope(["no"], [True])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="truths must hold bools, got 1"):
        pope([True], [1])
