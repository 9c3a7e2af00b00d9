"""CHAIR, against captions counted by hand and a count written the long way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.eval.metrics import Interval, bootstrap, chair, wilson

THINGS = st.sampled_from("abcdef")
CAPTIONS = st.lists(st.tuples(st.lists(THINGS, max_size=6), st.sets(THINGS)), min_size=1, max_size=15)


def test_captions_counted_by_hand():
    """Mentions 3, 2, 0 and 2, of them invented 0, 1, 0 and 2; things 2, 3, 1 and 1, of them said 2, 1, 0 and 0."""
    said = [["dog", "dog", "cat"], ["dog", "bird"], [], ["car", "car"]]
    there = [{"dog", "cat"}, {"dog", "cat", "tree"}, {"sun"}, {"bus"}]
    found = chair(said, there)
    assert found.n == 4
    assert found.chair_s == wilson(2, 4)
    assert (found.chair_i.value, found.chair_i.n) == (pytest.approx(3 / 7), 7)
    assert (found.recall.value, found.recall.n) == (pytest.approx(3 / 7), 7)
    assert (found.length.value, found.length.n) == (7 / 4, 4)
    assert chair(said, there, lengths=[9, 7, 1, 3]).length == bootstrap([9, 7, 1, 3], lambda rows: rows.mean())


def test_repeats_count_as_mentions_but_cover_once():
    found = chair([["a", "a", "b", "b"]], [{"a", "c"}])
    assert (found.chair_i.value, found.recall.value, found.chair_s.value) == (0.5, 0.5, 1.0)


@given(CAPTIONS)
def test_a_count_written_the_long_way(captions):
    invented = mentioned = covered = existing = bad = 0
    for said, there in captions:
        lies = [thing for thing in said if thing not in there]
        invented, mentioned, bad = invented + len(lies), mentioned + len(said), bad + bool(lies)
        covered, existing = covered + len({*said} & there), existing + len(there)
    found = chair([said for said, _ in captions], [there for _, there in captions], resamples=20)
    assert found.chair_s == wilson(bad, len(captions))
    for ours, part, whole in ((found.chair_i, invented, mentioned), (found.recall, covered, existing)):
        assert ours is None if not whole else ours.value == pytest.approx(part / whole)
        assert ours is None or 0 <= ours.low <= ours.high <= 1
    assert found.length.value == pytest.approx(mentioned / len(captions))


def test_no_invention_still_has_an_upper_bound():
    """Nothing found in 30 captions is no proof of nothing: the bound is that of 30 trials, not of the 60 mentions."""
    found = chair([["a", "b"]] * 30, [{"a", "b"}] * 30)
    assert found.chair_i == Interval(0.0, 0.0, wilson(0, 30).high, 60)
    assert found.recall == Interval(1.0, wilson(30, 30).low, 1.0, 60)


def test_captions_of_one_picture_belong_together():
    said, there = [["a"], ["b"], ["a", "c"]] * 20, [{"a"}] * 60
    alone, grouped = chair(said, there), chair(said, there, groups=[i // 20 for i in range(60)])
    assert grouped.chair_s.high - grouped.chair_s.low < alone.chair_s.high - alone.chair_s.low  # every picture is alike
    assert grouped.chair_i.value == alone.chair_i.value == 0.5


def test_what_is_not_defined_is_none():
    found = chair([[], []], [set(), set()])
    assert (found.chair_i, found.recall, found.chair_s.value, found.length.value) == (None, None, 0.0, 0.0)


def test_bad_input():
    with pytest.raises(ValueError, match="got 0 and 0"):
        chair([], [])
    with pytest.raises(ValueError, match="got 1 and 2"):
        chair([["a"]], [{"a"}, {"b"}])
    with pytest.raises(TypeError, match="got the text 'a dog'"):
        chair(["a dog"], [{"dog"}])
    with pytest.raises(ValueError, match="one length a caption, got 2 for 1"):
        chair([["a"]], [{"a"}], lengths=[1, 2])
