"""What tables of the documentation call attributes and fields are some, and no field of a declaration is left out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import list_strategies
from vtokens.strategies.views.heads import Heads
from vtokens.strategies.views.keys import Keys
from vtokens.strategies.views.states import States
from vtokens.strategies.views.visuals import Visuals

DOCS = Path(__file__).parents[2] / "docs"
STRATEGY, MODEL = "add-a-strategy.md", "add-a-model.md"
TABLES = [
    (STRATEGY, "What a stage sees and returns", 0, Strategy),
    (STRATEGY, "What a stage sees and returns", 1, Needs),
    (STRATEGY, "What a stage sees and returns", 2, Visuals),
    (STRATEGY, "Inside attention", 0, Heads),
    (STRATEGY, "States", 0, States),
    (STRATEGY, "Keys", 0, Keys),
    (MODEL, "What is declared", 0, Anatomy),
    (MODEL, "What is declared", 1, TowerSpec),
]


def named(page: str, title: str, number: int) -> set[str]:
    """The names in the first column of a table under a title."""
    section = (DOCS / page).read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    table = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[number]
    rows = table.splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`(\w+)[`(]", row.split(" | ")[0])}


def members(kind: type) -> Iterator[str]:
    for cls in kind.__mro__:
        yield from vars(cls)
        yield from getattr(cls, "__annotations__", {})


def test_every_second_prompt_is_in_the_table_of_contrasts() -> None:
    page = (DOCS / "contrastive.md").read_text(encoding="utf-8")
    table = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)[0]
    listed = set(re.findall(r"\[`(\w+)`\]", table))
    assert listed == set(list_strategies(needs="second prompt"))


@pytest.mark.parametrize(("page", "title", "number", "kind"), TABLES)
def test_names_are_attributes(page: str, title: str, number: int, kind: type) -> None:
    found = named(page, title, number)
    assert len(found) > 4
    assert found <= {*members(kind)}


@pytest.mark.parametrize(
    ("page", "title", "number", "kind"), [one for one in TABLES if one[3] in (Needs, Anatomy, TowerSpec)]
)
def test_no_field_is_left_out(page: str, title: str, number: int, kind: type) -> None:
    assert {field.name for field in dataclasses.fields(kind)} <= named(page, title, number)
