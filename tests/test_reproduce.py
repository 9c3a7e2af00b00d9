"""Every stored table says how it was made, and can be made again: commands exist, and their options are taken."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import vtokens
from benchmarks import common, peers, reproduce, tables, trend
from benchmarks.beside import alike, compare, told
from benchmarks.record import FIELDS, UNKNOWN, command, commit, lacking, parts, record
from benchmarks.took import minutes, timed_minutes

ROOT = Path(__file__).parent.parent
STORED = sorted(
    {str(path.parent.relative_to(tables.RESULTS)) for path in tables.RESULTS.rglob("conditions.csv")}
    | {path.name.split(".")[0] for path in tables.RESULTS.glob("*.conditions.csv")}
)


def not_taken(commands: Sequence[str]) -> list[str]:
    """The commands whose script is not there, or whose parser does not take the options."""
    words = [sys.executable, "-m", "tests.taken"]
    done = subprocess.run(words, input="\n".join(commands), cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def about(name: str) -> dict[str, Any]:
    folder = tables.RESULTS / name
    return tables.read(folder)["conditions"] if folder.is_dir() else tables.conditions(f"{folder}.conditions.csv")


def test_every_table_has_its_recipe_and_its_page() -> None:
    found = reproduce.every()
    loose = {path.stem for path in tables.RESULTS.glob("*.csv") if "." not in path.stem} - {"trend"}
    assert {*STORED} == {*found}
    assert loose == {name for name in found if not (tables.RESULTS / name).is_dir()}
    for one in found.values():
        assert (ROOT / one.page).is_file(), one.name
        assert reproduce.stored_rows(one.name)


@pytest.mark.parametrize("name", STORED)
def test_every_table_has_its_record(name: str) -> None:
    """Versions, commit, command, seeds, date and device; what nobody wrote down says so."""
    conditions = about(name)
    assert lacking(conditions) == []
    for part in parts(conditions):
        assert all(type(seed) is int for seed in part["draws"])
        assert part["commit"] != UNKNOWN or part["stored"]


def test_the_commands_to_make_tables_again_and_those_of_the_records_are_taken() -> None:
    again = [command for one in reproduce.every().values() for command in (*one.run, *one.part)]
    assert not [command for command in again if "results" in command]  # nothing that is stored is written over
    recorded = []
    for part in (part for name in STORED for part in parts(about(name))):
        recorded += [part["command"]] if "command" in part else part["commands"]
    # What stands behind the first of several is told in words.
    recorded = [one.split(";")[0] for one in recorded if not one.startswith(UNKNOWN)]
    wrong = ["python benchmarks/heads.py --question 3.5", "python benchmarks/head.py", "vtokens profil", "make bench"]
    assert not_taken([*again, *recorded, *wrong]) == wrong


def test_what_is_measured_now_is_recorded_and_what_lacks_a_part_is_not_written(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    made = record([3])
    assert made["draws"] == [3]
    assert {*made} | {"device"} == {*FIELDS}
    assert made["versions"]["torch"] == torch.__version__
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert made["commit"] == commit()
    assert head.returncode or head.stdout.startswith(commit().rstrip("+"))
    common.write(tmp_path, {"conditions": {**made, "device": "a processor"}, "rows": [{"share": 0.5}]})
    found = tables.read(tmp_path)
    assert found["conditions"]["command"] == command(sys.argv)
    for field in ("commit", "device"):
        with pytest.raises(ValueError, match=f"lack {field}"):
            common.write(tmp_path, {"conditions": {**made, "device": "a", field: ""}, "rows": []})
    with pytest.raises(TypeError, match="the seeds of what is drawn belong"):
        common.conditions(torch.device("cpu"), common.Clock(torch.device("cpu"), 1), model, rounds=1)


def test_a_table_tells_how_long_it_took() -> None:
    """Seconds of its rows are added up; of timed calls, the rounds, each once, and no parts of a call beside it."""
    clock = {"conditions": {"clock": "cpu seconds"}}
    assert minutes({"conditions": {"cpu_seconds": 90}, "rows": [{"cpu_seconds": 6.0}]}) == 1.5
    assert minutes({**clock, "rows": [{"cpu_seconds": 20}, {"cpu_seconds": 10.0}]}) == 0.5
    assert minutes({**clock, "rows": [{"seconds": 30}], "more": [{"share": 1}]}) == 0.5
    assert minutes({"conditions": {"clock": "wall seconds"}, "rows": [{"seconds": 30}]}) is None
    assert minutes({**clock, "rows": [{"seconds": 30}, {"seconds": None}]}) is None

    def taken(median: float) -> dict[str, float]:
        return {"median": median, "q1": median, "q3": median, "rounds": 10}

    rows = [
        {"seconds": {"plain": taken(6), "pruned": taken(3)}, "speed_up": taken(2), "select_wall_seconds": taken(1)},
        {"seconds": {"plain": taken(6), "pruned": taken(1.5)}},
        {"prefill": {"seconds": {"request": taken(12), "encode": taken(2)}}, "name": "x"},
    ]
    assert timed_minutes({**clock, "rows": rows}) == pytest.approx((6 + 3 + 1.5 + 12) * 10 / 60)
    assert timed_minutes({**clock, "rows": [{"share": 0.5}]}) is None


def test_timed_rounds_are_the_least_that_a_table_took() -> None:
    found = reproduce.every()
    timed = timed_minutes(reproduce.stored_rows("prefill-cpu"))
    assert timed is not None
    said = found["prefill-cpu"].takes.removeprefix("at least ").split(" min (timed rounds)")[0]
    assert 0 <= timed - float(said) < 0.1
    assert found["heads-scenes"].takes == "0.8 min"
    assert found["filter-kinds"].takes == "not measured"


def test_a_command_is_recorded_as_it_is_typed() -> None:
    assert command(["benchmarks/scenes.py", "--specs", "cls", "pai(alpha=0.2, gamma=1)"]) == (
        "python benchmarks/scenes.py --specs cls 'pai(alpha=0.2, gamma=1)'"
    )
    assert command([f"{ROOT}/benchmarks/heads.py"]) == "python benchmarks/heads.py"
    assert command([f"{ROOT}/tests/serve/fuzz/__main__.py", "--seed", "1"]) == "python -m tests.serve.fuzz --seed 1"


def test_rows_are_compared_by_what_they_are_of() -> None:
    def row(strategy: str, right: int, seconds: float, **more: Any) -> dict[str, Any]:
        return {"strategy": strategy, "keep": 0.1, "accuracy": {"n": 9, "right": right}, "seconds": seconds, **more}

    stored = [row("a", 5, 1.0), row("b", 6, 2.0), row("c", 7, 4.0)]
    found = compare(stored, [row("c", 7, 2.0), row("b", 8, 3.0), row("d", 1, 1.0)])
    assert (found.rows, found.missing) == (2, ["d, 0.1"])
    assert found.unlike == [("b, 0.1", "accuracy/right", 6, 8)]
    assert found.ratios == {"seconds": [0.5, 1.5]}
    assert found.equal == 2 * 4 - 1
    lines = "\n".join(told(found, "rows"))
    assert "b, 0.1: accuracy/right was 6, is 8" in lines
    assert "time seconds: 1.00 of the stored one (from 0.50 to 1.50, 2 rows)" in lines
    more = compare(stored, [row("a", 5, 1.0, chair=0.5)])
    assert (more.unlike, more.added) == ([], ["chair"])
    assert compare([row("a", 5, 1.0, chair=0.5)], [row("a", 5, 1.0)]).unlike == [("a, 0.1", "chair", 0.5, None)]
    assert compare([{"run": "x", "flops": {"first_token": 5}}], [{"run": "x", "flops": {"first_token": 6}}]).unlike
    twice = [{"run": "x", "n": 1}, {"run": "x", "n": 2}]
    assert not compare(twice, twice).unlike
    assert compare(twice, twice[::-1]).unlike


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [(0.333333, 1 / 3, True), (0.333333, 0.3334, False), ([1, 2.0], [1, 2], True), ([1], [1, 2], False),
     ("a", "a", True), (None, 0, False), (True, 1.0, True), (float("nan"), float("nan"), True)],
)  # fmt: skip
def test_cells_are_alike_but_for_rounding(one: Any, other: Any, same: bool) -> None:
    assert alike(one, other) is same


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> reproduce.Remade:
    """A table that a command of two tenths of a second makes again."""
    source = tmp_path / "source.json"
    source.write_text(json.dumps({"conditions": {"command": "x"}, "rows": [{"strategy": "a", "n": 3, "seconds": 0.1}]}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    tables.write(tables.RESULTS / "small", {"rows": [{"strategy": "a", "n": 3, "seconds": 0.2}]})
    return reproduce.Remade("small", "page", (f"python benchmarks/tables.py {shlex.quote(str(source))} {{out}}",))


def test_a_table_is_made_again_and_judged(
    small: reproduce.Remade, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seconds = reproduce.remake(small, small.run, tmp_path / "made")
    found = reproduce.held(small, tmp_path / "made")
    assert reproduce.verdict(small, found, seconds) == 0
    assert "small: reproduced (1 rows, 2 figures equal" in capfd.readouterr().out
    tables.write(tables.RESULTS / "small", {"rows": [{"strategy": "a", "n": 4, "seconds": 0.2}]})
    assert reproduce.verdict(small, reproduce.held(small, tmp_path / "made"), seconds) == 1
    assert "a: n was 4, is 3" in capfd.readouterr().out
    tables.write(tables.RESULTS / "small", {"rows": [{"strategy": "other", "n": 3}]})
    assert reproduce.verdict(small, reproduce.held(small, tmp_path / "made"), seconds) == 1
    assert "nothing to compare" in capfd.readouterr().out
    broken = reproduce.Remade("small", "page", ("python benchmarks/tables.py",))
    with pytest.raises(SystemExit, match="small: the command ended with 1"):
        reproduce.remake(broken, broken.run, tmp_path / "made")


def test_the_list_and_wrong_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in STORED)
    for words, says in ((["heads"], "no table 'heads'; allowed: attention"), (["heads-scenes", "--part"], "no part")):
        with pytest.raises(SystemExit):
            reproduce.main(words)
        assert says in capsys.readouterr().err


def test_a_release_has_one_row_of_the_trend_and_rows_stand_in_order() -> None:
    rows = [{"release": "0.2.0", "n": "1"}, {"release": "0.10.0", "n": "2"}]
    assert trend.kept(rows, {"release": "0.9.1", "n": 3}) == [rows[0], {"release": "0.9.1", "n": 3}, rows[1]]
    assert trend.kept(rows, {"release": "0.2.0", "n": 4}) == [{"release": "0.2.0", "n": 4}, rows[1]]
    stored = tables.rows(trend.TREND)
    assert vtokens.__version__ in [row["release"] for row in stored], "run: make trend"
    assert all(row["commit"] and row["command"] and row["questions"] >= row["census_right"] > 0 for row in stored)


def test_what_is_told_of_other_libraries_is_what_was_measured() -> None:
    """All left the same number of entries but for what acts inside the decoder; both transformers said the same."""
    found = tables.read("peers-cpu")
    held = {(row["library"], row["method"]): row["kv_bytes"] for row in found["times"]}
    assert len({held["vtokens", "cls"], *(size for (library, _), size in held.items() if library == "kvpress")}) == 1
    right = {(row["library"], row["method"]): row["accuracy"] for row in found["accuracy"]}
    assert right["transformers", "none"] == right["transformers (of kvpress)", "none"]
    assert right["transformers", "none"]["n"] >= 240
    assert found["conditions"]["kvpress"] == dict(pin.split("==") for pin in peers.PINS[:2])


def test_minutes_are_those_that_tables_hold() -> None:
    """Where rows hold the seconds of a processor that each took, their sum is what is said of the table."""
    held = {}
    for name, table in reproduce.every().items():
        rows = [row for rows in reproduce.stored_rows(name).values() if isinstance(rows, list) for row in rows]
        spent = [row["cpu_seconds"] for row in rows if isinstance(row, dict) and "cpu_seconds" in row]
        if spent and len(spent) == len(reproduce.stored_rows(name).get("rows", [])):
            held[name] = table, sum(spent) / 60
    assert {"census-choose", "census-compare", "scenes-smol"} <= {*held}
    for name, (table, spent) in held.items():
        assert table.minutes is None, name  # so that nobody writes another figure beside it
        said, unit = table.takes.split(";")[0].split()
        assert (abs(float(said) - spent) < 0.06 * spent + 0.5, unit) == (True, "min"), name
