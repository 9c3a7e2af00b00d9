"""`examples`: balance, order, and what it says when asked for something that does not exist."""

from collections import Counter

import pytest

from vtokens.scenes import KINDS, Example, accuracy, examples


def test_kinds_take_turns():
    found = examples("test", 2 * len(KINDS) + 1)
    assert Counter(e.kind for e in found) == {k: 2 + (k == KINDS[0]) for k in KINDS}
    assert [e.index for e in found] == list(range(len(found)))


def test_a_longer_list_begins_with_the_shorter():
    short, long = examples("calibration", 5, seed=2), examples("calibration", 9, seed=2)
    for a, b in zip(short, long, strict=False):
        assert (a.question, a.answer, a.scene) == (b.question, b.answer, b.scene)
        assert a.image.tobytes() == b.image.tobytes()


def test_an_example_is_a_picture_with_its_truth():
    (example,) = examples("hard", 1, kinds=["count_all"])
    assert isinstance(example, Example)
    assert (example.image.mode, example.image.size) == ("RGB", (96, 96))
    assert (example.split, example.seed, example.index, example.kind) == ("hard", 0, 0, "count_all")
    with pytest.raises(AttributeError):
        example.answer = "two"


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"split": "trian"}, ValueError, "unknown split 'trian'.*'train'"),
        ({"kinds": ["exist", "colour_off"]}, ValueError, "unknown kind 'colour_off'.*'colour_of'"),
        ({"kinds": []}, ValueError, "kinds is empty"),
        ({"kinds": "exist"}, TypeError, "not the string 'exist'"),
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"n": 2.5}, TypeError, "n must be an int, got 2.5"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    ],
)
def test_errors_name_the_value_and_the_nearest_right_one(kwargs, error, message):
    with pytest.raises(error, match=message):
        examples(**kwargs)


def test_wilson_interval():
    # Values of Wilson's formula worked by hand: centre (k + z^2/2) / (n + z^2).
    found = accuracy(9, 10)
    assert found.share == 0.9
    assert found.low == pytest.approx(0.5958, abs=1e-3)
    assert found.high == pytest.approx(0.9821, abs=1e-3)
    with pytest.raises(ValueError, match="successes=3, n=2"):
        accuracy(3, 2)
