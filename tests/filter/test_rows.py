"""Reading rows: every line comes out once, as a row or with the reason why not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.filter.rows import Refusal, Row, read

GOOD = {"image": "a.png", "caption": "a dog"}


def rows(tmp_path, data, **options):
    path = tmp_path / "in.jsonl"
    path.write_bytes(data if isinstance(data, bytes) else "".join(json.dumps(row) + "\n" for row in data).encode())
    return list(read(path, "Describe the image.", **options))


def test_rows_as_they_are_written(tmp_path):
    content = [GOOD, {"id": 7, "image": "b.png", "response": "yes", "caption": "no", "prompt": "Is it?", "more": [1]}]
    first, second = rows(tmp_path, content)
    assert (first.line, first.image, first.prompt, first.field, first.text) == (
        1, "a.png", "Describe the image.", "caption", "a dog",
    )  # fmt: skip
    assert (second.prompt, second.field, second.text, second.content) == ("Is it?", "response", "yes", content[1])
    assert rows(tmp_path, content, text="caption")[1].text == "no"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"image": "a.png", "caption": "a d', "no JSON: Unterminated string.*may be cut off"),
        (b'{"image": "a.png"}}\n', "no JSON: Extra data"),
        (b"\xff\xfe\n", "no JSON: it is not UTF-8"),
        (b"[1]\n", "no JSON object but list"),
        (b'{"image": "a.png", "caption": NaN}\n', "no JSON: NaN is no number"),
        (b"[" * 100_000 + b"\n", "no JSON"),
        (b'{"caption": "a"}\n', "no field 'image'"),
        (b'{"image": 3, "caption": "a"}\n', "'image' is no text but int"),
        (b'{"image": "", "caption": "a"}\n', "'image' is empty"),
        (b'{"image": "a.png"}\n', "no text: a field 'response' or 'caption' or 'text'"),
        (b'{"image": "a.png", "caption": null}\n', "'caption' is no text but NoneType"),
        (b'{"image": "a.png", "caption": "a", "prompt": 1}\n', "'prompt' is no text but int"),
        (b'{"image": "a.png", "caption": "a", "filter": {}}\n', "it has a field 'filter' already"),
    ],
)
def test_lines_that_are_set_aside(tmp_path, data, reason):
    (found,) = rows(tmp_path, data)
    assert isinstance(found, Refusal)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found.reason)
    assert found.raw.encode("utf-8", "surrogateescape") == data.rstrip(b"\n")


def test_duplicate_ids(tmp_path):
    found = rows(tmp_path, [{**GOOD, "id": i} for i in (1, "1", 1, None, None)] + [GOOD, GOOD])
    assert [type(one).__name__ for one in found] == ["Row", "Row", "Refusal", "Row", "Refusal", "Row", "Row"]
    assert found[2].reason == "duplicate id: line 1 has 1 too"


def test_a_last_line_without_a_break_is_a_row_if_it_is_whole(tmp_path):
    assert isinstance(rows(tmp_path, json.dumps(GOOD).encode())[0], Row)


@pytest.mark.fuzz
@given(data=st.lists(st.one_of(st.binary(max_size=30), st.just(json.dumps(GOOD).encode())), max_size=6))
def test_no_line_is_lost(data, tmp_path_factory):
    whole = [piece.replace(b"\n", b"").replace(b"\r", b"") for piece in data]
    found = rows(tmp_path_factory.mktemp("rows"), b"".join(piece + b"\r\n" for piece in whole))
    written = [i for i, piece in enumerate(whole, 1) if piece.decode("utf-8", "surrogateescape").strip()]
    assert [one.line for one in found] == written
    assert [one.raw.encode("utf-8", "surrogateescape") for one in found] == [whole[i - 1] for i in written]
    json.dumps([vars(one) for one in found])


def test_a_missing_file(tmp_path):
    with pytest.raises(OSError, match=r"none\.jsonl"):
        list(read(tmp_path / "none.jsonl", ""))
