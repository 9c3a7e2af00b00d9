"""Writes what docs/strategies/census.md tells of several trained seeds: `python benchmarks/census_page.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.page import Page  # noqa: E402
from benchmarks.tables import interval, markdown, read  # noqa: E402

RESULT = "census-seeds"
Row = dict[str, Any]


def models(result: Row) -> str:
    """Each model's answers without a strategy and under census: a row a model."""
    cells = dict.fromkeys((row["split"], row["keep"]) for row in result["compared"])
    found = {(row["model"], row["strategy"], row["split"], row["keep"]): row["accuracy"] for row in result["rows"]}
    lines = []
    for name in dict.fromkeys(row["model"] for row in result["rows"]):
        plain = [interval(found[name, "none", split, 1.0]) for split in dict.fromkeys(split for split, _ in cells)]
        lines.append([f"`{name}`", *plain, *(f"{found[name, 'census', *cell]['share']:.3f}" for cell in cells)])
    heads = [f"unpruned, {split}" for split in dict.fromkeys(split for split, _ in cells)]
    return markdown(["model", *heads, *(f"{split} {keep:g}" for split, keep in cells)], lines)


def pruners(result: Row) -> str:
    """How far census is above each pruner over all models together; what is not shown, and where models disagree."""
    over = [row for row in result["compared"] if row["strategy"] == "census"]
    cells = dict.fromkeys((row["split"], row["keep"]) for row in over)
    found = {(row["over"], row["split"], row["keep"]): row for row in over}
    first = list(cells)[min(1, len(cells) - 1)]
    names = sorted(dict.fromkeys(row["over"] for row in over), key=lambda name: found[name, *first]["difference"])
    lines = [[f"`{name}`", *(_difference(found.get((name, *cell))) for cell in cells)] for name in names]
    return markdown(["pruner", *(f"{split} {keep:g}" for split, keep in cells)], lines) + _count(over)


def _difference(row: Row | None) -> str:
    if row is None:
        return "-"
    apart = sum(share > 0 for share in row["by_model"].values()), len(row["by_model"])
    mark = "" if row["p_holm"] <= 0.05 and row["difference"] > 0 else " !" if row["p_holm"] <= 0.05 else " *"
    return f"{row['difference']:+.3f}{mark}" + (f" ({apart[0]} of {apart[1]})" if apart[0] < apart[1] else "")


def _count(over: list[Row]) -> str:
    shown = [row for row in over if row["p_holm"] <= 0.05]
    above = sum(row["difference"] > 0 for row in shown)
    below = len(shown) - above
    every = sum(all(share > 0 for share in row["by_model"].values()) for row in over)
    return (
        f"\ncensus is shown to be above the pruner in {above} of {len(over)} cells and below it in {below}; "
        f"on every model by itself it is above in {every}. {over[0]['n']} answers a cell.\n"
    )


PAGE = Page(
    ROOT / "docs" / "strategies" / "census.md",
    "python benchmarks/census_page.py",
    lambda: {"models": models(read(RESULT)), "seeds": pruners(read(RESULT))},
)

if __name__ == "__main__":
    PAGE.write()
