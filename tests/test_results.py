"""Measured results are compact tables, and the pages made of them say what they say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import contrastive, filter_page, hallucination_page, mitigation_page, scenes, tables, testbed_page
from vtokens.scenes import embedded_path

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


@given(about=st.dictionaries(NAMES, VALUES, min_size=1), rows=st.lists(st.dictionaries(NAMES, VALUES, min_size=1)))
def test_what_is_read_is_what_was_written(tmp_path_factory, about, rows):
    folder = tmp_path_factory.mktemp("result")
    tables.write(folder, {"conditions": about, "rows": rows})
    found = tables.read(folder)
    assert found == {"conditions": about, "rows": rows}
    assert repr(sorted(map(str, found["conditions"].items()))) == repr(sorted(map(str, about.items())))  # 1 is not 1.0


def test_fractions_have_six_digits_and_counts_all(tmp_path):
    tables.write(tmp_path, {"rows": [{"share": 1 / 3, "flops": 4626350080, "worst": math.inf}, {"share": 2e-9 / 3}]})
    assert (tmp_path / "rows.csv").read_text() == "share,flops,worst\n0.333333,4626350080,Infinity\n6.66667e-10,,\n"


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


@pytest.mark.parametrize("page", [filter_page, hallucination_page, mitigation_page, testbed_page])
def test_the_tables_of_the_reports_are_fresh(page):
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.updated(text), f"run: {page.COMMAND}"


def test_the_tables_of_contrastive_decoding_are_fresh():
    text = contrastive.PAGE.read_text(encoding="utf-8")
    parts = contrastive.made(tables.read(contrastive.RESULT))
    assert text == contrastive.updated(text, parts), f"run: {contrastive.COMMAND} --page"


def test_the_table_of_the_model_card_is_fresh():
    text = (embedded_path("scenes-llava") / "README.md").read_text(encoding="utf-8")
    assert scenes.START + scenes.card_table(tables.read(scenes.RESULT)["rows"]) + scenes.END in text
