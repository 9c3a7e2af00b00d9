"""The leaderboard: figures of a row by hand, what counts as better, a run that goes on, and its table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import vtokens
from benchmarks import leaderboard, tables
from benchmarks.leaderboard_rows import FLOORS, Replies, row
from vtokens import scenes

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import board

TIMES = {"first_token": 0.5, "selecting": 0.002}


@pytest.fixture(scope="module")
def examples() -> list[scenes.Example]:
    return scenes.examples("test", n=60, kinds=["digit", "where", "count_all"], seed=1)


def replies(examples: list[scenes.Example], wrong: set[int]) -> Replies:
    """Right answers but for some."""
    said = ["nothing" if number in wrong else one.answer for number, one in enumerate(examples)]
    return Replies(examples, said, [9.0] * len(examples))


def test_a_row_by_hand(examples: list[scenes.Example]) -> None:
    """Shares of each column and of all, of the questions that go into it."""
    wrong = {number for number, one in enumerate(examples) if one.kind == "digit"}
    found = row("one", 0.1, replies(examples, wrong), TIMES, {})
    counts = {kind: sum(one.kind == kind for one in examples) for kind in ("digit", "where", "count_all")}
    assert {name: part["value"] for name, part in found["accuracy"].items()} == {
        "all": pytest.approx(1 - counts["digit"] / 60), "digits": 0.0, "where": 1.0, "counting": 1.0,
    }  # fmt: skip
    assert found["accuracy"]["digits"]["n"] == counts["digit"]
    assert (found["tokens_per_layer"], found["first_token"], found["selecting"]) == (9.0, 0.5, 0.002)
    assert not {"over", "better", "worse", "chair"} & {*found}


@pytest.mark.parametrize(
    ("floors", "better", "worse"),
    [((20, 20), True, False), ((20, 1), False, False), ((20, 0), False, False), ((1, 1), False, False)],
)
def test_better_is_what_clears_both_floors(
    examples: list[scenes.Example], floors: tuple[int, int], better: bool, worse: bool
) -> None:
    """One that errs once, against floors that err as often as is said."""
    other = {name: replies(examples, {*range(count)}) for name, count in zip(FLOORS, floors, strict=True)}
    found = row("one", 0.1, replies(examples, {0}), TIMES, other)
    assert (found["better"], found["worse"]) == (better, worse)
    assert found["over"]["random"]["value"] == pytest.approx((floors[0] - 1) / 60)
    behind = row("one", 0.1, replies(examples, {*range(30)}), TIMES, other)
    assert (behind["better"], behind["worse"]) == (False, True)
    assert "better" not in row("one", 0.1, replies(examples, {0}), TIMES, {"random": other["random"]})


@torch.no_grad()
def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """The same rows from what is kept, without the model being asked again; the table shows all of them."""
    model, processor = vtokens.load("scenes-llava", strategy="none")
    vtokens.detach(model)
    options = argparse.Namespace(
        specs=["cls", "random", "evs"], keeps=[0.1], questions=12, seeds=1, rounds=1, batch_size=12, longest=None,
        replies=tmp_path / "replies", about={},
    )  # fmt: skip
    rows, left = leaderboard.board(model, processor, options)
    assert [one["strategy"] for one in rows] == ["none", "random", "cls"]
    assert [one["tokens_per_layer"] for one in rows] == [144, 14, 14]
    assert left[0].startswith("evs: ")
    kept = {path: path.read_bytes() for path in options.replies.iterdir()}  # seconds among it, that no run repeats
    assert len(kept) == 3 + 2
    assert leaderboard.board(model, processor, options) == (rows, left)
    assert kept == {path: path.read_bytes() for path in options.replies.iterdir()}
    told: dict[str, Any] = {"questions_per_seed": 12, "seeds": 1, "threads": 1, "device": "a processor"}
    tables.write(tmp_path / "out", {"conditions": told, "rows": rows, "left_out": [{"why": one} for one in left]})
    text = board.table(tables.read(tmp_path / "out"))
    assert "| `cls` | " in text
    assert "Nothing is compared with both floors." in text
    assert "Left out: evs: " in text


def test_every_pruner_is_on_it() -> None:
    """What leaves a share of a picture, floors first; no strategies of videos, no mitigations that keep a share of a
    second prompt (`agla`), and no choice among the others (`auto`)."""
    found = leaderboard.pruners()
    assert {"keep"} <= {*vtokens.describe("agla").fields} & {*vtokens.describe("auto").fields}
    assert {"random", "uniform", "cls", "fastv", "todre"} <= {*found}
    assert not {"evs", "dymu", "var", "vcd", "agla", "auto"} & {*found}
    assert found[0] == "random"
