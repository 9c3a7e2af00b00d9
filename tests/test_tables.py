"""The generated parts of the README and of docs are those that `python tools/readme.py` writes."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import pages  # noqa: E402
import pytest  # noqa: E402
import readme  # noqa: E402
import serving_page  # noqa: E402

from benchmarks import tables  # noqa: E402
from vtokens.strategies import list_strategies  # noqa: E402


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.path.stem)
def test_the_parts_of_a_page_are_fresh(page):
    assert page.read() == page.fresh(), "run: make generated"


def test_every_strategy_has_a_page_with_fresh_tables():
    for name in list_strategies():
        page = pages.page(name)
        assert page.read() == page.fresh(), "run: make generated"


def test_the_list_of_strategies_is_fresh():
    page = pages.page("README")
    assert page.opening("strategies") in page.read()
    assert page.read() == page.fresh(), "run: make generated"


def test_what_is_measured_of_the_server_is_told(tmp_path):
    """Ratios and shares stand where their heads say; nothing is said of what was not measured."""
    assert serving_page.speed(tmp_path) == ""
    part = {"median": 0.5, "q1": 0.25, "q3": 0.75, "rounds": 3}
    row = {"model": "m", "asked": "questions", "tokens": 2.125, "seconds": part, "same_text": 24, "answers": 24}
    ours = {"server": "vtokens", "strategy": "none", "times_transformers": {**part, "median": 4.25}}
    names = ("transformers", "served", "served_pruned")
    speeds = {f"{name}{end}": part for name in ("served", "batcher") for end in ("_speed_up", "_of_ideal")}
    result = {
        "conditions": {
            "at_once": 8, "threads_of_each": 1, "dtype": "float32", "device": "a processor", "command": "python it.py",
            "versions": {"transformers": "5.23.0"}, "date": "2026-11-30T07:12:00+00:00",
        },
        "throughput": [
            {**row, "server": "transformers", "strategy": "none", "at_once": 8, "times_transformers": part},
            {**row, **ours, "at_once": 8, "times_one_at_a_time": {**part, "median": 2.5}},
            {**row, **ours, "at_once": 1, "times_one_at_a_time": part},
            {**row, **ours, "at_once": 8, "times_one_at_a_time": part, "model_by_itself": {**part, "median": 0.75},
             "model_times_one_at_a_time": {**part, "median": 1.5}},
        ],
        "first_token": [
            {"model": "m", "strategy": "cls(keep=0.1)", "seconds": dict.fromkeys(names, part), **speeds,
             "ideal_speed_up": {**part, "median": 3.75}},
        ],
    }  # fmt: skip
    tables.write(tmp_path, result)
    lines = serving_page.speed(tmp_path).splitlines()
    assert any("Without a strategy 72 of 72 answers" in line for line in lines)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| m ")]
    assert [row[-5:] for row in cells[:4]] == [
        ["2", "", "", "", ""],
        ["2", "4.25 (0.25 to 0.75)", "2.50 (0.25 to 0.75)", "", ""],
        ["2", "4.25 (0.25 to 0.75)", "", "", ""],
        ["2", "4.25 (0.25 to 0.75)", "0.50 (0.25 to 0.75)", "1.50 (0.25 to 0.75)", "75% (25% to 75%)"],
    ]
    assert any(line.startswith("The model by itself is `generate`") for line in lines)
    assert cells[4][2:7] == ["500.0 ms", "500.0 ms", "500.0 ms", "0.50 (0.25 to 0.75)", "3.75 (0.25 to 0.75)"]
    assert cells[4][7:] == ["50% (25% to 75%)"] * 2
