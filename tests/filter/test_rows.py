"""Reading rows: every line comes out once, as a row or with the reason why not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.filter.datasets.bounds import LINE
from vtokens.filter.datasets.rows import DatasetRow, Refusal, count, read_rows

GOOD = {"image": "a.png", "caption": "a dog"}


def rows(tmp_path, data, **options):
    path = tmp_path / "in.jsonl"
    path.write_bytes(data if isinstance(data, bytes) else "".join(json.dumps(row) + "\n" for row in data).encode())
    return list(read_rows(path, "Describe the image.", **options))


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
        (b"[" * 100_000 + b"\n", "no JSON: it is nested deeper than 64 levels"),
        (b'{"image": "a.png", "caption": "a", "score": 1e999}\n', "no JSON: '1e999' is too large for a number"),
        (b'{"image": "a.png", "caption": "a", "id": ' + b"9" * 400 + b"}\n", "is too large for a number"),
        (b'{"image": "a.png", "caption": "a", "deep": ' + b"[" * 70 + b"]" * 70 + b"}\n", "deeper than 64 levels"),
        (rb'{"image": "a.png", "caption": "a \ud800"}' + b"\n", "half of a surrogate pair"),
        (b'{"image": "a.png", "caption": "a", "caption": "b"}\n', "has the name 'caption' twice"),
        (b'{"image": "a.png", "caption": "' + b"a " * 25_001 + b'"}\n', "'caption' is too long: it has 50,002 char"),
        (b'{"image": "a.png", "caption": "a", "prompt": "' + b"a" * 50_001 + b'"}\n', "'prompt' is too long"),
        (b'{"image": "' + b"a" * 4097 + b'", "caption": "a"}\n', "'image' is no path: it has 4,097 characters"),
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


def test_a_line_that_is_too_long_is_never_held(tmp_path):
    """Its beginning is kept, and the lines around it are read."""
    good = json.dumps(GOOD).encode() + b"\n"
    long = b'{"image": "a.png", "caption": "' + b"a" * LINE + b'"}\n'
    found = rows(tmp_path, good + long + b" " * (LINE + 1) + b"\n" + good)
    assert [type(one).__name__ for one in found] == ["DatasetRow", "Refusal", "Refusal", "DatasetRow"]
    assert found[1].reason == f"the line is too long: it has {len(long):,} bytes and 16,777,216 are read"
    assert found[1].raw == long[:1000].decode()
    assert count(tmp_path / "in.jsonl") == 4


def test_reasons_are_short(tmp_path):
    name = "x" * 1_000_000
    data = b"".join(
        text.encode() + b"\n"
        for text in (
            json.dumps({**GOOD, "id": name}), json.dumps({**GOOD, "id": name}),
            f'{{"{name}": 1, "{name}": 2}}', f'{{"image": "a", "caption": "a", "n": {"9" * 1_000_000}}}',
        )
    )  # fmt: skip
    found = rows(tmp_path, data)
    assert [type(one).__name__ for one in found] == ["DatasetRow", "Refusal", "Refusal", "Refusal"]
    assert max(len(one.reason) for one in found[1:]) < 400


def test_duplicate_ids(tmp_path):
    found = rows(tmp_path, [{**GOOD, "id": i} for i in (1, "1", 1, None, None)] + [GOOD, GOOD])
    assert [type(one).__name__ for one in found] == [
        "DatasetRow",
        "DatasetRow",
        "Refusal",
        "DatasetRow",
        "Refusal",
        "DatasetRow",
        "DatasetRow",
    ]
    assert found[2].reason == "duplicate id: line 1 has 1 too"


def test_a_last_line_without_a_break_is_a_row_if_it_is_whole(tmp_path):
    assert isinstance(rows(tmp_path, json.dumps(GOOD).encode())[0], DatasetRow)


@pytest.mark.fuzz
@given(data=st.lists(st.one_of(st.binary(max_size=30), st.just(json.dumps(GOOD).encode())), max_size=6))
def test_no_line_is_lost(data, tmp_path_factory):
    whole = [piece.replace(b"\n", b"").replace(b"\r", b"") for piece in data]
    found = rows(tmp_path_factory.mktemp("rows"), b"".join(piece + b"\r\n" for piece in whole))
    written = [i for i, piece in enumerate(whole, 1) if piece.decode("utf-8", "surrogateescape").strip()]
    assert [one.line for one in found] == written
    assert [one.raw.encode("utf-8", "surrogateescape") for one in found] == [whole[i - 1] for i in written]
    json.dumps([vars(one) for one in found])


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    whole = b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n"
    [found] = rows(tmp_path, whole)
    assert found.content == GOOD
    assert rows(tmp_path, b"\xef\xbb\xbf\n" + whole)[0].line == 2  # a mark by itself, and then one in the middle
    assert [rows(tmp_path, data) for data in (b"\xef\xbb\xbf", b"\xef\xbb\xbf\n")] == [[], []]
    assert count(tmp_path / "in.jsonl") == 0


def test_a_missing_file(tmp_path):
    with pytest.raises(OSError, match=r"none\.jsonl"):
        list(read_rows(tmp_path / "none.jsonl", ""))
