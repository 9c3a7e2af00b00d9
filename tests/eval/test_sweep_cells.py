"""From what a user asks for to the cells of a sweep."""

import re

import pytest

from vtokens.eval.cells import Cell, cells, split
from vtokens.strategies import format_spec, parse


def names(*args, **kwargs):
    return [cell.cell for cell in cells(*args, **kwargs)]


def test_a_strategy_with_an_open_keep_is_a_cell_a_ratio_and_any_other_is_one():
    assert names(["none", "fastv", "todre(keep=0.1)+cls(keep=0.5)", "cls( layers=(2,),  keep=0.25)"], [0.5, 64]) == [
        "none#s0",
        "fastv@0.5#s0",
        "fastv@64#s0",
        "todre(keep=0.1)+cls(keep=0.5)#s0",
        "cls( layers=(2,), keep=0.25)#s0",
    ]
    assert names(["fastv(layer=3)"], [0.5, 0.1]) == ["fastv(layer=3)@0.5#s0", "fastv(layer=3)@0.1#s0"]
    assert names(["cls(keep=0.25)"]) == ["cls(keep=0.25)#s0"]  # the default, but written out: not the open `cls`


def test_cells_come_seed_by_seed_with_what_a_result_says_of_them():
    found = cells(["none", "random"], [0.5], seeds=2)
    assert found == [
        Cell("none#s0", "none", "none", None, 0),
        Cell("random@0.5#s0", "random(keep=0.5)", "random", 0.5, 0),
        Cell("none#s1", "none", "none", None, 1),
        Cell("random@0.5#s1", "random(keep=0.5, seed=1)", "random", 0.5, 1),
    ]
    assert [cell.seed for cell in cells(["none"], seeds=[7, 3])] == [7, 3]
    for cell in found:
        assert format_spec(parse(cell.strategy)) == cell.strategy


def test_only_what_draws_takes_the_seed_and_only_where_it_was_given_none():
    specs = ["random(seed=5)", "random+fastv(keep=0.75)"]
    assert [cell.strategy for cell in cells(specs, [0.25], seeds=[3])] == [
        "random(seed=5)",
        "random(seed=3)+fastv(keep=0.75)",
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("none,random,fastv", ["none", "random", "fastv"]),
        ("fastv(keep=0.5, layer=2)+cls , todre", ["fastv(keep=0.5, layer=2)+cls", "todre"]),
        ("todre(objective='a,b')", ["todre(objective='a,b')"]),
    ],
)
def test_commas_in_brackets_do_not_separate(text, parts):
    assert split(text) == parts


@pytest.mark.parametrize("text", ["", ",", "a,,b", "fastv(", "a b", "fastv)+(cls", "a]+[b"])
def test_what_is_no_list(text):
    with pytest.raises(ValueError, match="cannot read the strategies"):
        split(text)


@pytest.mark.parametrize(
    ("strategies", "keeps", "seeds", "says"),
    [
        (["fastw"], [0.5], 1, "Did you mean 'fastv'"),
        (["fastv(layr=2)"], [0.5], 1, "Did you mean 'layer'"),
        (["none", "vhr"], [0.5], 1, "keep=0.5 has no strategy to take it: of none and vhr none leaves its keep"),
        (["fastv(keep=0.25)"], [0.5], 1, "keep=0.5 has no strategy to take it"),
        (["fastv"], [1.5], 1, "keep=1.5 is out of range"),
        (["cls+fastv"], [0.5], 1, "ambiguous: cls, fastv"),
        (["none", "none"], [], 1, "the strategy 'none' is asked for twice: each strategy is allowed once"),
        (["cls", " cls"], [0.5], 1, "the strategy 'cls' is asked for twice"),
        (["fastv"], [0.5, 0.50], 1, "the keep 0.5 is asked for twice"),
        (["none"], [], [1, 1], "the seed 1 is asked for twice"),
        (["none"], [], 0, "no cells: 1 strategies and 0 seeds"),
        ([], [0.5], 1, "no cells: 0 strategies"),
        (["none"], [], [-1], "seed -1 is not allowed"),
        (["none"], [], [2**32], "seed 4294967296 is not allowed: an int from 0 to 4294967295"),
        (["none"], [], 99_999_999_999, "99,999,999,999 seeds are not allowed: at most 1,000"),
    ],
)
def test_what_cannot_be_a_sweep(strategies, keeps, seeds, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        cells(strategies, keeps, seeds)
