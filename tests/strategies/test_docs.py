"""The code of docs/add-a-strategy.md and docs/add-a-model.md does what the pages say."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vtokens
from tests.strategies.helpers import kept, pair, registry_restored, three_rows
from vtokens.adapters import Adapter
from vtokens.strategies import Facts, Selection, Visuals, get, parse
from vtokens.strategies.views.heads import Heads

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def example() -> Iterator[dict[str, Any]]:
    """The names that the page's strategy and its test define, run as a module of this name would be."""
    names: dict[str, Any] = {"__name__": "docs_add_a_strategy"}
    with registry_restored():
        for block in blocks("add-a-strategy.md")[:2]:
            exec(compile(block, "docs/add-a-strategy.md", "exec"), names)
        yield names


def test_the_example_passes_its_own_test(example: dict[str, Any]) -> None:
    """The test that the page shows, as it stands there."""
    example["test_the_longest_features_stay"]()


def test_the_example_is_a_full_strategy(example: dict[str, Any]) -> None:
    """Listed, described, parsed and refused like the built-in ones, and it runs on other families."""
    cls = get("norm")
    assert cls is example["Norm"]
    assert "norm" in vtokens.strategies("n*")
    assert vtokens.describe("norm").summary == "Keeps the tokens whose projected features are longest, or shortest."
    assert parse("norm(keep=0.1, order=shortest)") == (cls(keep=0.1, order="shortest"),)
    with pytest.raises(ValueError, match="unknown order 'long'"):
        parse("norm(order=long)")
    model, batch = pair("qwen2_vl")[0], three_rows("qwen2_vl")
    longest, shortest = (kept(model, batch, f"norm(keep=3, order={order})") for order in ("longest", "shortest"))
    assert all(len(a) == len(b) == 3 and not {*a} & {*b} for a, b in zip(longest, shortest, strict=True))


def test_the_pages_name_what_exists() -> None:
    """Every attribute in the tables is one, and every file the pages mention is there."""
    rows = re.findall(r"^\| `(\w+)", (DOCS / "add-a-strategy.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"tokens", "budgets", "top", "at_prompt", "at_layer"} <= set(rows)
    heads = {*Heads.__dataclass_fields__, *dir(Heads)}
    assert all(hasattr(Visuals, name) or hasattr(get("fastv"), name) or name in heads for name in rows)
    rows = re.findall(r"^\| `(\w+)", (DOCS / "add-a-model.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(rows) == Adapter.__abstractmethods__
    root = DOCS.parent
    for page in ("add-a-strategy.md", "add-a-model.md"):
        text = (DOCS / page).read_text(encoding="utf-8")
        for path in re.findall(r"`((?:vtokens|tests|examples|docs)/[\w/.-]+)`", text):
            assert (root / path).exists() or path == "vtokens/strategies/norm.py", f"{page} names {path}"
    towers = {"tower_depth", "has_cls", "tower", "read_sample", "merge_blocks"}
    assert {f.name for f in Facts.__dataclass_fields__.values()} == {"family", "depth", "width", "decoder"} | towers
    assert set(Selection.__dataclass_fields__) == {"keep", "counts", "member"}
