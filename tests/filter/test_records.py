"""Records: JSON lines that come back as they were, and errors that name the line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.filter.calibrators.records import LabelledResponse, read, write
from vtokens.filter.mentions import KINDS, Mention

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def mention(text, start=0, **more):
    return Mention(start, start + len(text), text, "object", text, **more)


@st.composite
def records(draw):
    n = draw(st.integers(0, 4))
    words = draw(st.lists(st.text(min_size=1, max_size=6), min_size=n, max_size=n))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=n, max_size=n))
    found = [
        Mention(0, len(w), w, k, w, order=i, tokens=(i, i + 1))
        for i, (w, k) in enumerate(zip(words, kinds, strict=True))
    ]
    return LabelledResponse(
        draw(st.text() | st.integers()),
        draw(st.text()),
        draw(st.text()),
        found,
        draw(st.dictionaries(st.text(), st.lists(FLOATS, min_size=n, max_size=n), max_size=3)),
        draw(st.lists(st.booleans(), min_size=n, max_size=n)),
        draw(st.dictionaries(st.text(), st.text() | st.integers() | st.none(), max_size=2)),
    )


@given(st.lists(records(), max_size=4))
def test_what_was_written_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("records") / "r.jsonl"
    assert write(path, rows) == len(rows)
    assert list(read(path)) == rows


def one(**more):
    fields = {"image": 1, "prompt": "?", "response": "a cat", "mentions": [mention("a cat")], "signals": {"nll": [0.5]}}
    return LabelledResponse(**{**fields, "labels": [True], **more})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": []}, ValueError, "'labels' must have one value a mention, got 0 for 1"),
        ({"signals": {"nll": [1.0, 2.0]}}, ValueError, "'nll' must have one value a mention, got 2 for 1"),
        ({"labels": [1]}, TypeError, "labels must be bools, got 1"),
        ({"image": 1.5}, TypeError, "image must be text or a whole number, got 1.5"),
        ({"image": True}, TypeError, "got True"),
    ],
)
def test_a_record_that_does_not_fit_together(change, error, message):
    with pytest.raises(error, match=message):
        one(**change)


def test_nan_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "r.jsonl"
    write(path, [one()])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"record 2 \(image 'b'\): signal 'nll' is nan"):
        write(path, [one(), one(image="b", signals={"nll": [float("nan")]})])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


MENTION = {"start": 0, "end": 1, "text": "a", "kind": "object", "name": "a"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines(one().to_dict(), one().to_dict())[:-9], "line 2, is no record: it is cut off"),
        (lines(one().to_dict()) + "{]\n", "line 2, is no record: Expecting"),
        (lines([1]), "line 1, is no record: a record is an object, got list"),
        (lines({"image": 1}), r"line 1, is no record: .*missing \['labels'"),
        (lines({**one().to_dict(), "extra": 0}), r"unknown \['extra'\]"),
        (lines({**one().to_dict(), "mentions": [MENTION | {"kid": 1}]}), "line 1, is no record: .*kid"),
        (lines({**one().to_dict(), "mentions": 3}), "line 1, is no record"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, text, message):
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read(path))
