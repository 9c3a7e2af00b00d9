"""Rows of strategies added to a stored leaderboard, without those that it holds being asked again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.leaderboard_rows import FLOORS

YARDSTICKS = ("none", *FLOORS)
"""What is asked again beside strategies that are added: their answers show whether the new rows belong to the old."""
_ALIKE = ("questions_per_seed", "seeds", "kinds", "longest", "parameters", "dtype", "attention")
_RUN = ("command", "date", "commit", "versions", "device", "load_average")


def added(stored: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """The stored leaderboard with the rows of a later run of other strategies, or of other keeps, in their places.

    A row of both is taken from `run`, but those of the yardsticks stay, times included. The conditions get an entry
    under `added`: the strategies, and what the run is to be read with.

    Args:
        stored: `conditions`, `rows` and perhaps `left_out`, as `tables.read` gives them.
        run: the same of the run that adds, with rows of the yardsticks at each keep.

    Raises:
        ValueError: the runs differ in questions or model, or a yardstick answers otherwise or is missing.
    """
    before, now = stored["conditions"], run["conditions"]
    if unlike := [name for name in _ALIKE if before.get(name) != now.get(name)]:
        told = "; ".join(f"{name}: {before.get(name)!r} stored, {now.get(name)!r} now" for name in unlike)
        raise ValueError(f"these rows cannot stand in the stored table: {told}")
    old, new = _by_place(stored["rows"]), _by_place(run["rows"])
    for place in new:
        if place[0] in YARDSTICKS and place in old and _answers(old[place]) != _answers(new[place]):
            raise ValueError(
                f"{place[0]} at keep {place[1]:g} answers otherwise than in the stored table "
                f"({_answers(old[place])[:2]} stored, {_answers(new[place])[:2]} now): run the whole table again"
            )
    rows = {**old, **{place: row for place, row in new.items() if place[0] not in YARDSTICKS or place not in old}}
    if lost := [
        (name, keep) for name, keep in rows if name != "none" and any((one, keep) not in rows for one in FLOORS)
    ]:
        raise ValueError(f"keep {lost[0][1]:g} of {lost[0][0]} has no {' and '.join(FLOORS)} beside it: add those too")
    names = list(dict.fromkeys(name for name, _ in new if name not in YARDSTICKS))
    entry = {"strategies": names, **{name: now[name] for name in _RUN if name in now}}
    left = stored.get("left_out", [])
    left = [*left, *(one for one in run.get("left_out", []) if one not in left)]
    return {
        "conditions": {**before, "added": [*before.get("added", []), entry]},
        "rows": sorted(rows.values(), key=lambda row: -row["keep"]),
        "left_out": left,
    }


def _by_place(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, float], Mapping[str, Any]]:
    return {(row["strategy"], row["keep"]): row for row in rows}


def _answers(row: Mapping[str, Any]) -> Sequence[Any]:
    """What does not depend on the machine: shares of right answers and tokens, to the digits that tables keep."""
    shares = [(name, float(f"{part['value']:.6g}"), part["n"]) for name, part in row["accuracy"].items()]
    return [float(f"{row['tokens_per_layer']:.6g}"), *shares]
