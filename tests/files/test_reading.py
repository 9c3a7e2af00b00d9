"""Files are read if they are regular and of bounded size, and JSON where every reader would understand it alike."""

import io
import json
import os
import socket
import time

import pytest

from vtokens.core.errors import shorten, unknown
from vtokens.core.images import open_image
from vtokens.core.reading import lines, opened, parse_json, read_json, read_text, regular, within
from vtokens.eval.cells import split
from vtokens.strategies import parse


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
    places = {tmp_path / "pipe.png": "named pipe", tmp_path / "link.png": "named pipe", tmp_path / "socket": "socket"}
    places |= {tmp_path: "folder", "/dev/zero": "device", "/dev/stdin": "device|pipe|regular"}
    for path, kind in list(places.items())[:5]:
        for read in (regular, opened, read_text, open_image):
            with pytest.raises(OSError, match=f"is a {kind}, and a regular file is needed"):
                read(path)
    with pytest.raises(FileNotFoundError):
        regular(tmp_path / "missing")


def test_no_more_is_read_than_the_bound(tmp_path):
    path = tmp_path / "long.json"
    path.write_text("[" + "1," * 50 + "1]")
    assert read_json(path) == [1] * 51
    assert read_json(path, most=path.stat().st_size) == [1] * 51
    with pytest.raises(ValueError, match=r"more than 102 bytes, the most that are read"):
        read_json(path, most=path.stat().st_size - 1)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="not UTF-8: invalid start byte at byte 7"):
        read_json(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1e999}', "'1e999' is too large for a number"),
        ('{"a": -1e400}', "too large"),
        ("[NaN]", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number"),
        ("9" * 309, "too large for a number"),
        ("[" * 65 + "]" * 65, "deeper than 64 levels"),
        ("[" * 100_000, "deeper than 64 levels"),
        ('{"a":' * 100 + "1" + "}" * 100, "deeper than 64 levels"),
        (r'{"a": "\ud800"}', r"holds \\ud800, half of a surrogate pair"),
        (r'{"\udc00": 1}', r"holds \\udc00"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "has the name 'c' twice"),
        ("[1", "Expecting ',' delimiter"),
        ("[1] 2", "Extra data"),
        ("", "Expecting value"),
    ],
)
def test_json_that_readers_take_differently_is_refused(text, why):
    with pytest.raises(ValueError, match=why) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 500


def test_json_is_read_as_it_was_written():
    for content in (
        {"a": [1, -2.5, None, True, "é\U0001f600", {"b": {}}], "": 10**307, "z": 1.7e308},
        [[[]]], 0, "x", None, json.loads("[" * 64 + "]" * 64)[0],
    ):  # fmt: skip
        assert parse_json(json.dumps(content)) == content
    assert parse_json(r'"\ud83d\ude00"') == "\U0001f600"


def test_lines_are_cut_and_counted():
    file = io.BytesIO(b"abc\n" + b"x" * 3_000_000 + b"\n\nend")
    assert list(lines(file, 10)) == [(b"abc\n", 4), (b"x" * 10, 3_000_001), (b"\n", 1), (b"end", 3)]
    assert list(lines(io.BytesIO(b"1234567890"), 10)) == [(b"1234567890", 10)]
    assert list(lines(io.BytesIO(b""), 10)) == []


def test_names_stay_in_their_folder(tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "out.png").touch()
    (folder / "a.png").touch()
    (folder / "away.png").symlink_to("../out.png")
    (folder / "near.png").symlink_to("a.png")
    (tmp_path / "door").symlink_to("in")
    (folder / "all").symlink_to("/")
    for name in ("a.png", "deep/../a.png", "near.png", str(folder / "a.png"), "not-there.png"):
        for root in (folder, tmp_path / "door"):
            assert within(root, name).parent == folder
    for name in ("../out.png", str(tmp_path / "out.png"), "away.png", "deep/../../out.png", "all/etc/hosts", ".."):
        with pytest.raises(ValueError, match="lies outside of"):
            within(folder, name)
    assert not (tmp_path / "in2").exists()
    with pytest.raises(ValueError, match="lies outside of"):
        within(folder, "../in2/a.png")  # no prefix of text


def test_messages_repeat_no_more_than_a_part():
    assert shorten("x" * 200) == repr("x" * 200)
    assert shorten("ab" * 5000) == f"{'ab' * 50!r} ... {'ab' * 50!r} (10,000 characters)"
    assert shorten(b"ab" * 5000).endswith("(10,000 bytes)")
    assert shorten([1, 2]) == "[1, 2]"
    assert len(shorten(list(range(100_000)))) < 300
    begin = time.perf_counter()
    error = unknown("strategy", "fastv" * 2_000_000, ["fastv", "cls"])
    assert len(str(error)) < 400
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(
    "spec",
    [
        "fastv(keep=" + "1" * 10_000_000 + ")",
        "+".join(["fastv"] * 2_000_000),
        "(" * 10_000_000,
        "fastv(layer=" + "-" * 9_900 + "1)",
        "fastv(layer=" + "[" * 4_000 + "]" * 4_000 + ")",
        "+".join(["fastv"] * 1000),
        ["fastv"] * 1000,
        "x" * 10_000_000,
        {"x" * 10_000_000: 1},
    ],
    ids=range(9),
)  # fmt: skip
def test_a_long_spec_is_refused_at_once_and_in_a_short_line(spec):
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=r"cannot read|at once|strategies|needs a 'name'") as caught:
        parse(spec)
    assert time.perf_counter() - begin < 5
    assert len(str(caught.value)) < 1000
    if isinstance(spec, str):
        with pytest.raises(ValueError, match=r"cannot read|at once") as caught:
            parse(split(spec))
        assert len(str(caught.value)) < 1000


def test_lists_inside_lists_end():
    spec = ["fastv"]
    for _ in range(20):
        spec = [spec]
    assert [one.name for one in parse(spec)] == ["fastv"]
    for _ in range(5000):
        spec = [spec]
    with pytest.raises(ValueError, match="lists deep"):
        parse(spec)
    with pytest.raises(TypeError, match="does not name a strategy"):
        parse(b"fastv")
