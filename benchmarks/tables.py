"""Results as compact tables: a folder a result, with a CSV file for each list of rows and one for the conditions.

python benchmarks/tables.py runs/profile.json benchmarks/results/profile-cpu    # of what `vtokens profile --out` wrote
python benchmarks/tables.py runs/scenes benchmarks/results/scenes-sweep          # of what `vtokens eval --out` wrote

A nested value has a column of its own, named by its path: `pope/random/accuracy/low`, `partners/[0]/dose`. A cell is
JSON, or else the text itself; an empty one says that the row has no such value. Fractions keep six digits.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_ABOUT = "conditions"
_INDEX = re.compile(r"\[\d+\]")


def write(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `conditions` and every list of rows of `result`, a file each.

    Raises:
        TypeError: a part is neither the conditions nor a list of dicts.
        ValueError: a name holds what the paths of columns are made of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in result.items():
        if name == _ABOUT:
            rows: list[dict[str, str]] = [{"name": path, "value": cell} for path, cell in _cells(part)]
        elif isinstance(part, Sequence) and all(isinstance(row, Mapping) for row in part):
            rows = [dict(_cells(row)) for row in part]
        else:
            raise TypeError(f"{name!r} is no list of rows but {type(part).__name__}")
        columns = _side_by_side(path for row in rows for path in row)
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            out = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            out.writeheader()
            out.writerows(rows)


def read(folder: Path | str) -> dict[str, Any]:
    """What `write` was given, of a folder, or of a name under benchmarks/results."""
    found: dict[str, Any] = {path.stem: rows(path) for path in sorted((RESULTS / folder).glob("*.csv"))}
    if _ABOUT in found:
        found[_ABOUT] = conditions(RESULTS / folder / f"{_ABOUT}.csv")
    if not found:
        raise FileNotFoundError(f"no tables in {RESULTS / folder}")
    return found


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one file."""
    return [_nested({name: cell for name, cell in row.items() if cell}) for row in _cells_of(path)]


def conditions(path: Path | str) -> dict[str, Any]:
    """The conditions in one file."""
    found: dict[str, Any] = _nested({row["name"]: row["value"] for row in _cells_of(Path(path))})
    return found


def _cells_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _side_by_side(paths: Iterable[str]) -> list[str]:
    """Each path once, in the order in which its groups are first seen: what later rows add to one stands beside it."""
    seen: dict[str, int] = {}

    def groups(path: str) -> list[int]:
        return [seen.setdefault(group, len(seen)) for group in accumulate(path.split("/"), "{}/{}".format)]

    return sorted(dict.fromkeys(paths), key=groups)


def _cells(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The path and the text of every leaf."""
    nested = isinstance(value, Sequence) and bool(value) and all(isinstance(part, Mapping) for part in value)
    parts = {f"[{at}]": part for at, part in enumerate(value)} if nested else value
    if not isinstance(parts, Mapping) or not parts:
        yield path, _text(value)
        return
    for name, part in parts.items():
        if not str(name).isprintable() or "/" in str(name) or (_INDEX.fullmatch(str(name)) and not nested):
            raise ValueError(f"a column cannot be named {name!r}: it has to be printable, '/' and '[0]' are for paths")
        yield from _cells(part, f"{path}/{name}" if path else str(name))


def _text(value: Any) -> str:
    if isinstance(value, str):
        # The csv module of Python 3.11 leaves a carriage return unquoted, and then reads it as the end of the row.
        plain = value and value.isprintable() and _value(value) == value
        return value if plain else json.dumps(value)
    return json.dumps(_rounded(value), ensure_ascii=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _value(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def _nested(flat: Mapping[str, str]) -> Any:
    """The tree of which `flat` holds the leaves."""
    if "" in flat:
        return _value(flat[""])
    parts: dict[str, dict[str, str]] = {}
    for path, cell in flat.items():
        name, _, rest = path.partition("/")
        parts.setdefault(name, {})[rest] = cell
    tree = {name: _nested(leaves) for name, leaves in parts.items()}
    return list(tree.values()) if tree and all(map(_INDEX.fullmatch, tree)) else tree


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its head first."""
    rows = [f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in row)}|\n" for row in (head, *lines)]
    return "".join([rows[0], f"|{'---|' * len(head)}\n", *rows[1:]])


def interval(part: Mapping[str, Any] | None, digits: int = 3, sign: Literal["", "+"] = "") -> str:
    """A value, or a share, with its interval; a dash for none. `sign` "+" for differences."""
    if part is None:
        return "-"
    value = part["value"] if "value" in part else part["share"]
    value, low, high = (f"{number:{sign}.{digits}f}" for number in (value, part["low"], part["high"]))
    return f"{value} [{low}, {high}]"


def told(source: Path) -> dict[str, Any]:
    """The tables of what a command of `vtokens` wrote: a file of JSON, or the folder of a sweep."""
    if not source.is_dir():
        content = json.loads(source.read_text(encoding="utf-8"))
        if "routes" in content:
            return {"rows": list(_flow(content))}
        return {name: part for name, part in content.items() if isinstance(part, (dict, list))}
    about = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    about["draws"] = sorted({cell["seed"] for cell in about.pop("cells")})
    lines = (source / "results.jsonl").read_text(encoding="utf-8").splitlines()
    results = [json.loads(line) for line in lines]
    shared = ("versions", "hardware", "budget")
    return {
        "conditions": about,
        "results": [{name: value for name, value in row.items() if name not in shared} for row in results],
        "summary": json.loads((source / "summary.json").read_text(encoding="utf-8")),
    }


def _flow(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each window of layers that was closed to one way from the picture to the answer."""
    count = len(content["probabilities"])
    for route in content["routes"]:
        for window, changes in zip(content["windows"], route["changes"], strict=True):
            row = {"closed": route["source"], "to": route["target"], "first_layer": window[0], "last_layer": window[-1]}
            error = statistics.pstdev(changes) / count**0.5
            change = round(statistics.fmean(changes), 5)
            yield row | {"change": change, "standard_error": round(error, 5), "n": count}


if __name__ == "__main__":
    write(Path(sys.argv[2]), told(Path(sys.argv[1])))
