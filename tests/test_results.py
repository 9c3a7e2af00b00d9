"""Measured results are compact tables, and the pages made of them say what they say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import (
    census_page,
    clips_card,
    contrastive,
    filter_page,
    hallucination_page,
    mitigation_page,
    scenes,
    tables,
    testbed_page,
)
from benchmarks.page import Page

NAMES = st.text(min_size=1).filter(lambda name: name.isprintable() and "/" not in name and name[0] != "[")
NUMBERS = st.integers() | st.floats(allow_nan=False).map(lambda number: float(f"{number:.6g}"))
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.dictionaries(NAMES, inner, min_size=1)
        | st.lists(NUMBERS | st.none())
        | st.lists(st.dictionaries(NAMES, inner, min_size=1), min_size=1, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all examples, each of which writes its two files anew: pytest looks through all folders for a new one."""
    return tmp_path_factory.mktemp("result")


@given(about=st.dictionaries(NAMES, VALUES, min_size=1), rows=st.lists(st.dictionaries(NAMES, VALUES, min_size=1)))
def test_what_is_read_is_what_was_written(folder, about, rows):
    tables.write(folder, {"conditions": about, "rows": rows})
    found = tables.read(folder)
    assert found == {"conditions": about, "rows": rows}
    assert repr(sorted(map(str, found["conditions"].items()))) == repr(sorted(map(str, about.items())))  # 1 is not 1.0


def test_fractions_have_six_digits_and_counts_all(tmp_path):
    tables.write(tmp_path, {"rows": [{"share": 1 / 3, "flops": 4626350080, "worst": math.inf}, {"share": 2e-9 / 3}]})
    assert (tmp_path / "rows.csv").read_text() == "share,flops,worst\n0.333333,4626350080,Infinity\n6.66667e-10,,\n"


def test_columns_of_a_group_stand_side_by_side(tmp_path):
    """Whichever row brings them first, and so when they are read and written again; a group may be empty in a row."""
    rows = [{"a": {"x": 1, "y": {"low": 2}}, "b": 3}, {"c": None, "a": {"z": 4, "y": {"high": 5}}}, {"c": {"d": 6}}]
    result = {"rows": rows}
    for _ in range(2):
        tables.write(tmp_path, result)
        assert (tmp_path / "rows.csv").read_text().splitlines()[0] == "a/x,a/y/low,a/y/high,a/z,b,c,c/d"
        result = tables.read(tmp_path)
    assert result["rows"] == rows


@pytest.mark.parametrize("name", ["a/b", "[0]", "a\r"])
def test_a_name_that_would_read_as_a_path_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be named"):
        tables.write(tmp_path, {"rows": [{name: 1}]})
    with pytest.raises(TypeError, match="'rows' is no list of rows but int"):
        tables.write(tmp_path, {"rows": 1})


def test_there_are_only_tables_and_all_of_them_are_written_as_we_write(tmp_path):
    files = [path for path in tables.RESULTS.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".csv"}
    for folder in {path.parent for path in files} - {tables.RESULTS}:
        tables.write(tmp_path / folder.name, tables.read(folder))
        for path in folder.iterdir():
            assert (tmp_path / folder.name / path.name).read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize(
    "page",
    [
        *(
            one.PAGE
            for one in (census_page, clips_card, filter_page, hallucination_page, mitigation_page, testbed_page)
        ),
        contrastive.page(),
        scenes.card("scenes-llava", tables.read(scenes.RESULTS / "scenes-llava")["rows"]),
    ],
    ids=lambda page: page.path.parent.name if page.path.stem == "README" else page.path.stem,
)
def test_what_is_made_of_results_is_fresh(page):
    assert page.read() == page.fresh(), f"run: {page.command}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<!-- other: python it.py -->\n<!-- end of other -->", "has places for other, which `python it.py` does not"),
        ("no places", "has no place for one, two"),
        ("<!-- one: python it.py -->\nold\n<!-- two: python it.py -->\n<!-- end of two -->", "2 places .* 1 end"),
    ],
)
def test_a_page_whose_places_are_others_is_refused(tmp_path, text, says):
    """Of a part that nobody makes, one without a place, or one that does not end."""
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        Page(path, "python it.py", {"one": lambda: "new\n", "two": lambda: "new\n"}).write()
    assert path.read_text() == text


def test_parts_without_a_place_are_not_made_where_some_will_do(tmp_path):
    """Nor is what stands around the places touched."""
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- one: python it.py -->\nold\n<!-- end of one -->\nbehind")
    Page(path, "python it.py", {"one": lambda: "new\n", "two": lambda: str(1 / 0)}, some=True).write()
    assert path.read_text() == "before\n<!-- one: python it.py -->\nnew\n<!-- end of one -->\nbehind"
