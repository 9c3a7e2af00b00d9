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
from benchmarks.leaderboard_added import added
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


def _table(examples: list[scenes.Example], wrong: dict[str, int], keeps: tuple[float, ...] = (0.5, 0.1)) -> Any:
    """What a run would write of strategies that err so often."""
    said = {name: replies(examples, {*range(count)}) for name, count in wrong.items()}
    floors = {name: said[name] for name in FLOORS if name in said}
    rows = [row("none", 1.0, replies(examples, set()), TIMES, {})]
    rows += [
        row(name, keep, one, TIMES, {} if name in floors else floors) for keep in keeps for name, one in said.items()
    ]
    told = {"questions_per_seed": 60, "seeds": 1, "threads": 1, "device": "a processor", "command": f"asks {len(said)}"}
    return {"conditions": told, "rows": rows, "left_out": []}


def test_rows_are_added_to_a_stored_table(examples: list[scenes.Example], tmp_path: Path) -> None:
    """Theirs are new, the others as they were, after a way through files; who was added is told, on the page too."""
    tables.write(tmp_path, _table(examples, {"random": 20, "downsample": 20, "cls": 9, "zoo": 30}))
    stored = tables.read(tmp_path)
    new = _table(examples, {"random": 20, "downsample": 20, "zoo": 2, "scope": 1}, (0.1,))
    new["rows"][1] |= {"first_token": 0.9}  # a yardstick's time now, on another machine
    found = added(stored, new)
    places = {(one["strategy"], one["keep"]): one for one in found["rows"]}
    assert [one["keep"] for one in found["rows"]] == [1.0, *[0.5] * 4, *[0.1] * 5]
    assert places["zoo", 0.1]["accuracy"]["all"]["value"] == pytest.approx(58 / 60)
    assert places["zoo", 0.5] in stored["rows"]
    assert [one for one in found["rows"] if one["strategy"] in ("cls", "none", "random")] == [
        one for one in stored["rows"] if one["strategy"] in ("cls", "none", "random")
    ]
    assert found["conditions"]["command"] == "asks 4"
    assert found["conditions"]["added"] == [
        {"strategies": ["zoo", "scope"], "command": "asks 4", "device": "a processor"}
    ]
    tables.write(tmp_path, found)
    assert "Added later: `zoo`, `scope` (a processor)." in board.table(tables.read(tmp_path))


def test_rows_of_another_model_or_of_other_questions_are_not_added(examples: list[scenes.Example]) -> None:
    """Told by the settings, and by what the yardsticks answer; a keep without floors has nothing to be beaten."""
    stored = _table(examples, {"random": 20, "downsample": 20, "cls": 9})
    with pytest.raises(ValueError, match=r"random at keep 0\.5 answers otherwise"):
        added(stored, _table(examples, {"random": 19, "downsample": 20, "zoo": 2}))
    other = _table(examples, {"random": 20, "downsample": 20, "zoo": 2})
    other["conditions"]["seeds"] = 3
    with pytest.raises(ValueError, match="seeds: 1 stored, 3 now"):
        added(stored, other)
    with pytest.raises(ValueError, match=r"keep 0\.05 of zoo has no random and downsample beside it"):
        added(stored, _table(examples, {"zoo": 2}, (0.05,)))


def test_every_pruner_is_on_it() -> None:
    """What leaves a share of a picture, floors first; no strategies of videos, no mitigations that keep a share of a
    second prompt (`agla`), and no choice among the others (`auto`)."""
    found = leaderboard.pruners()
    assert {"keep"} <= {*vtokens.describe("agla").fields} & {*vtokens.describe("auto").fields}
    assert {"random", "uniform", "cls", "fastv", "todre"} <= {*found}
    assert not {"evs", "dymu", "var", "vcd", "agla", "auto"} & {*found}
    assert found[0] == "random"
