"""Two tables of one kind side by side: figures that have to be equal, and times, which are told as ratios."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KEYS = (
    "cell", "model", "family", "shape", "kernel", "provider", "pattern", "dtype", "M", "N", "B", "strategy", "name",
    "spec", "label", "base", "split", "set", "scope", "what", "kind", "run", "batch", "signals", "action", "branch",
    "over", "to", "closed", "first_layer", "last_layer", "layer", "partner", "dose", "alpha", "delta", "scale",
    "objects", "frames", "questions", "visual_tokens", "keep", "seed", "task", "metric", "group", "stage", "step",
    "asked", "server", "at_once", "requests", "number", "threads",
)  # fmt: skip
"""Columns that say what a row is of; those that a table has tell its rows apart."""
TIMES = (
    r"seconds", r"(^|_)ms(_|$)", r"^(ratio|q1|q3)$", r"speed_?up", r"of_ideal",
    r"(^|/)over_(plain|kcenter|decord|pyav)",
    r"fastest", r"^cost/", r"pruned_over", r"keeping_all", r"times_", r"per_second", r"^rss_mib$", r"first_token",
    r"^(token|prefill|prefill_step)/", r"select", r"^(encode|prefill|decode)$", r"target_met", r"^target$",
    r"cpu_minutes", r"grey_levels", r"^factor$",
)  # fmt: skip
"""Columns that are times or follow from them. Counted operations (`flops/...`) are not among them."""
NEAR = 2e-5  # of a figure: two roundings to six digits


@dataclass
class Found:
    """What came of comparing.

    Attributes:
        rows: stored rows that were made again.
        missing: keys of rows that were made and are not stored.
        equal: figures that are equal.
        unlike: those that are not: row, column, stored and new.
        added: columns that no stored row has, as the benchmark has learnt them since.
        ratios: by column, new time over stored time of each row.
    """

    rows: int = 0
    missing: list[str] = field(default_factory=list)
    equal: int = 0
    unlike: list[tuple[str, str, Any, Any]] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    ratios: dict[str, list[float]] = field(default_factory=dict)


def compare(stored: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], times: Iterable[str] = ()) -> Found:
    """Hold the new rows against the stored ones of the same keys; rows of a table are dicts, nested ones too.

    Args:
        stored: rows as they were read.
        new: rows of the same columns, all of them or a part.
        times: patterns of columns that are times, besides `TIMES`.
    """
    patterns = [re.compile(one) for one in (*TIMES, *times)]
    there, found = dict(_named(stored, _keys(stored))), Found()
    known = {column for row in stored for column, _ in _leaves(row)}
    for key, row in _named(new, _keys(stored)):
        if key not in there:
            found.missing.append(key)
            continue
        found.rows += 1
        before, now = dict(_leaves(there[key])), dict(_leaves(row))
        for column in dict.fromkeys((*before, *now)):
            if column not in known:
                found.added += [] if column in found.added else [column]
            elif not column.startswith("flops") and any(one.search(column) for one in patterns):
                _time(found, column, before.get(column), now.get(column))
            elif alike(before.get(column), now.get(column)):
                found.equal += 1
            else:
                found.unlike.append((key, column, before.get(column), now.get(column)))
    return found


def alike(one: Any, other: Any) -> bool:
    """Whether two cells say the same, but for the rounding of six digits."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if _number(one) and _number(other):
        return math.isclose(one, other, rel_tol=NEAR, abs_tol=1e-12) or (one != one and other != other)
    return bool(one == other)


def _time(found: Found, column: str, before: Any, now: Any) -> None:
    if _number(before) and _number(now) and before > 0 and not column.endswith(("/rounds", "/q1", "/q3", "/n")):
        found.ratios.setdefault(column, []).append(now / before)


def told(found: Found, name: str, most: int = 8) -> Iterator[str]:
    """The comparison of one table in lines."""
    yield f"{name}: {found.rows} rows, {found.equal} figures equal, {len(found.unlike)} not"
    for key, column, before, now in found.unlike[:most]:
        yield f"    {key}: {column} was {before}, is {now}"
    if len(found.unlike) > most:
        yield f"    and {len(found.unlike) - most} more"
    for key in found.missing[:most]:
        yield f"    {key}: not among the stored rows"
    if found.added:
        yield f"    columns that the stored rows do not have: {len(found.added)}, {found.added[0]} and so on"
    for column, values in found.ratios.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        yield f"    time {column}: {middle:.2f} of the stored one (from {low:.2f} to {high:.2f}, {len(values)} rows)"


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in KEYS if any(not isinstance(row.get(name), (dict, list, type(None))) for row in rows)]


def _named(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows by what they are of; those of which a table has several are numbered."""
    seen: dict[str, int] = {}
    for row in rows:
        name = ", ".join(f"{row[key]}" for key in keys if row.get(key) is not None)
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name} ({seen[name]})", row


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _leaves(part, f"{path}/{name}" if path else str(name))
    else:
        yield path, value


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
