"""The tables of docs/choose.md, held against the rows as they lie in the files, and against what `auto` takes."""

from __future__ import annotations

import csv
import re

import pytest

import vtokens
from tests.families import build
from tests.pages.blocks import ROOT
from vtokens.strategies import describe

PAGE = (ROOT / "docs" / "choose.md").read_text(encoding="utf-8")
COLUMNS = {
    "reading (digits)": ("digits", "ocr"),
    "where something is": ("where", "grounding"),
    "how many": ("counting", "counting"),
    "whether something is there": ("pope", "yes_no"),
    "all questions": ("all", "general"),
}


def table(name: str) -> list[list[str]]:
    """The cells of a generated table, without its head."""
    part = PAGE.split(f"<!-- {name}: ")[1].split(f"<!-- end of {name} -->")[0]
    rows = [line.strip("|").split("|") for line in re.findall(r"^\|.*\|$", part, re.MULTILINE)]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def measured(model: str = "scenes-llava") -> dict[tuple[str, str], dict[str, str]]:
    path = ROOT / "benchmarks" / "results" / f"leaderboard-{model}" / "rows.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["strategy"], f"{float(row['keep']):g}"): row for row in csv.DictReader(file)}


@pytest.mark.parametrize(("name", "model"), [("pictures", "scenes-llava"), ("pictures on scenes-qwen", "scenes-qwen")])
def test_pictures(name: str, model: str) -> None:
    """Every figure is that of its row, and no strategy of the kind that a column holds answers more."""
    rows, asked, seen = measured(model), "", 0
    for cells in table(name):
        asked = cells[0] or asked
        column, keep = f"accuracy/{COLUMNS[asked][0]}/value", cells[1]
        assert abs(int(cells[2]) - 100 * float(rows["none", "1"][column])) <= 0.5 + 1e-6
        names = [re.findall(r"`(\w+)` (\d+)", cell)[0] for cell in cells[3:6]]
        for name, figure in names:
            assert abs(int(figure) - 100 * float(rows[name, keep][column])) <= 0.5 + 1e-6, (asked, keep, name)
        assert abs(int(cells[6]) - 100 * float(rows["random", keep][column])) <= 0.5 + 1e-6
        room = 1.1 * float(rows["random", keep]["tokens_per_layer"])
        for (name, at), row in rows.items():
            if at != keep or name == "none" or not describe(name).paper or name == names[0][0]:
                continue
            second = names[1] if float(row["tokens_per_layer"]) <= room else names[2]
            assert float(row[column]) <= float(rows[second[0], keep][column]), (asked, keep, name)
        for (name, _), fits in zip(names, (True, True, False), strict=True):
            assert (float(rows[name, keep]["tokens_per_layer"]) <= room) is fits
        seen += 1
    assert seen == 20


@pytest.mark.parametrize("keep", ["0.5", "0.25", "0.1", "0.05"])
@pytest.mark.parametrize(("name", "family"), [("pictures", "llava"), ("pictures on scenes-qwen", "qwen2_5_vl")])
def test_auto_takes_what_the_page_says(name: str, family: str, keep: str) -> None:
    model, asked = build(family)[0], ""
    for cells in table(name):
        asked = cells[0] or asked
        if cells[1] == keep:
            with vtokens.attach(model, f"auto(task='{COLUMNS[asked][1]}', keep={keep})") as handle:
                assert re.findall(r"`(\w+)`", cells[3]) == [handle.strategies[0].name], (asked, keep)


def test_what_is_said_in_short() -> None:
    """The sentences that name figures' order: who loses digits, who keeps them, what half of the tokens shows."""
    rows = measured()

    def digits(name: str, keep: str) -> float:
        return float(rows[name, keep]["accuracy/digits/value"])

    kept = [digits(name, "0.1") for name in ("divprune", "zoo", "idselection", "census")]
    assert min(kept) >= digits("none", "1") - 0.02
    assert max(digits(name, "0.1") for name in ("cls", "visionzip")) < 0.5 * min(kept)
    half = [row for (name, keep), row in rows.items() if keep == "0.5" and name not in ("random", "downsample")]
    better = [row for row in half if row["better"].lower() == "true"]
    assert 0 < len(better) < len(half) / 2
    inside = [float(rows[name, "0.1"]["tokens_per_layer"]) for name in ("pyramiddrop", "fastv")]
    assert all(2 <= tokens / float(rows["random", "0.1"]["tokens_per_layer"]) <= 5 for tokens in inside)
    for model, least in (("scenes-llava", True), ("scenes-qwen", True), ("scenes-smol", False)):
        for keep in ("0.25", "0.1"):
            right = {name: row for (name, at), row in measured(model).items() if at == keep}
            late, floor = right["pyramiddrop"], right["random"]
            clear = float(late["accuracy/all/low"]) > float(floor["accuracy/all/high"])
            below = float(late["accuracy/all/high"]) < float(right["divprune"]["accuracy/all/low"])
            assert (clear, below) == (least, not least), (model, keep)
