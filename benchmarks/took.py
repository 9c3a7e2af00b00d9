"""How long a stored table took, by what the table itself holds: processor seconds of its rows, or of timed rounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmarks.record import parts

INSIDE = frozenset({"select_wall_seconds", "step_seconds"})
"""Times that are within others of the same row."""
WHOLE = "request"
"""Of the phases of a call, the one that is all of them."""


def minutes(table: Mapping[str, Any]) -> float | None:
    """Minutes of a processor that all rows took; None if the table does not tell.

    They are `cpu_seconds` of the conditions, or of the rows; where the clock of the conditions is the processor's,
    `seconds` of the rows too. A table that lacks them in some of its rows does not tell.

    Args:
        table: "conditions", and rows by table, as `benchmarks.tables.read` gives them.
    """
    about = table.get("conditions", {})
    if about.get("cpu_seconds") is not None:
        return float(about["cpu_seconds"]) / 60
    names = ["cpu_seconds"]
    if all(part.get("clock") == "cpu seconds" for part in parts(about)):
        names.append("seconds")
    for rows in _tables(table):
        for name in names:
            found: list[Any] = [row.get(name) for row in rows]
            if all(isinstance(value, int | float) for value in found):
                return sum(map(float, found)) / 60
    return None


def timed_minutes(table: Mapping[str, Any]) -> float | None:
    """Minutes that the timed rounds took: each median as often as there were rounds; None if nothing was timed.

    What was not timed (warming up, making models, other parts) comes on top, so it takes at least as long as that.
    A time that several rows are compared with is counted once.
    """
    found = {
        (number, place, seconds["median"], seconds.get("q1"), seconds.get("q3"), seconds["rounds"])
        for number, rows in enumerate(_tables(table))
        for row in rows
        for place, seconds in _summaries(row)
        if any("seconds" in name for name in place)
    }
    return sum(one[2] * one[-1] for one in found) / 60 if found else None


def _tables(table: Mapping[str, Any]) -> Iterable[list[dict[str, Any]]]:
    return (rows for name, rows in table.items() if name != "conditions" and rows and isinstance(rows[0], Mapping))


def _summaries(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The quartiles in a row, each with the names that lead there."""
    if not isinstance(value, Mapping):
        return
    if isinstance(value.get("median"), int | float) and isinstance(value.get("rounds"), int | float):
        yield place, dict(value)
        return
    for name in (WHOLE,) if WHOLE in value else value.keys() - INSIDE:
        yield from _summaries(value[name], (*place, name))
