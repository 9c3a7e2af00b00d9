"""Reading a results folder (docs/results-format.md) into `Results`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vtokens.core.errors import unknown
from vtokens.core.reading import MEBIBYTE, opened, parse_json, read_json
from vtokens.core.reading import lines as bounded
from vtokens.eval.manifest import read as read_manifest
from vtokens.schemas import check

from .results import (
    BASELINE,
    MEANS,
    NAN,
    Cost,
    Metric,
    Results,
    Score,
    StrategyAtKeep,
    geometric,
    key,
    mean,
    number,
    order,
)

_NEEDED = ("manifest.json", "results.jsonl", "summary.json")
_LOWER = ("chair", "error", "wer", "cer", "loss", "perplexity", "hallucination")
_LONGEST = 64 * MEBIBYTE  # bytes of a line
_NEITHER = ("yes_ratio", "length", "unanswered")


def read_results(folder: str | Path) -> Results:
    """Read what `vtokens eval` wrote.

    Raises:
        ValueError: no such folder, no results folder (naming what is missing), an unfinished sweep, or another schema.
    """
    folder = Path(folder)
    manifest, rows, summary, notes = _files(folder)
    cells = {str(c["cell"]): c for c in manifest.get("cells", [])}
    pooled: dict[str, dict[str, Any]] = {}
    for cell in [*cells.values(), *summary, *rows]:
        name, keep = str(cell["name"]), cell.get("keep")
        entry = pooled.setdefault(key(name, keep), {"name": name, "keep": keep, "specs": {}})
        if "strategy" in cell:
            entry["specs"][str(cell["strategy"])] = None
    costs = _costs(rows)
    scores: dict[str, dict[tuple[str, str], Score]] = defaultdict(dict)
    for row in summary:
        where = (str(row["task"]), str(row["metric"]))
        scores[key(str(row["name"]), row.get("keep"))][where] = _score(row)
    names = list(dict.fromkeys(entry["name"] for entry in pooled.values()))
    settings = [
        StrategyAtKeep(entry["name"], entry["keep"], tuple(entry["specs"]), scores.get(k, {}), costs.get(k, {}))
        for k, entry in pooled.items()
    ]
    settings.sort(key=lambda s: (s.name != BASELINE, names.index(s.name), order(s.keep)))
    metrics = _metrics(manifest, summary, settings)
    tasks = dict.fromkeys(metric.task for metric in metrics)
    headlines = tuple(_headline([m for m in metrics if m.task == task]) for task in tasks)
    where_cells = {c: (key(str(e["name"]), e.get("keep")), int(e.get("seed") or 0)) for c, e in cells.items()}
    missing = sorted(set(cells) - {str(row["cell"]) for row in rows})
    if missing:
        notes.append(f"{len(missing)} of {len(cells)} cells have no result yet: {', '.join(missing[:5])}")
    return Results(folder, manifest, tuple(settings), headlines, metrics, where_cells, tuple(notes))


def lines(path: Path, kind: str) -> Iterator[dict[str, Any] | None]:
    """The lines of a JSON-lines file; None for one that is not of the `kind` of `vtokens.schemas`."""
    with opened(path) as file:
        for data, _ in bounded(file, _LONGEST):
            if data.strip():
                try:
                    yield check(parse_json(data.decode("utf-8")), kind)
                except ValueError:
                    yield None


def _files(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    if not folder.is_dir():
        parent = folder.resolve().parent
        siblings = [str(folder.parent / found.parent.name) for found in parent.glob("*/manifest.json")]
        if siblings:
            raise unknown("results folder", str(folder), siblings)
        raise ValueError(f"there is no folder {str(folder)!r}; `vtokens eval --out` writes one")
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing == list(_NEEDED[1:]) and (folder / "answers").is_dir():
        raise ValueError(
            f"the sweep in {str(folder)!r} has not finished: {' and '.join(missing)} are missing; run the same "
            "`vtokens eval` command again, it goes on where it stopped"
        )
    if missing:
        raise ValueError(
            f"{str(folder)!r} is no results folder: {', '.join(missing)} missing; `vtokens eval --out` writes one"
        )
    manifest, given = read_manifest(folder), _rows(folder / "summary.json")
    found_rows = list(lines(folder / "results.jsonl", "result"))
    rows, summary = [row for row in found_rows if row], [row for row in given if row]
    notes = []
    if len(rows) < len(found_rows):
        notes.append(f"{len(found_rows) - len(rows)} of {len(found_rows)} lines of results.jsonl could not be read")
    if len(summary) < len(given):
        notes.append(f"{len(given) - len(summary)} of {len(given)} rows of summary.json could not be read")
    if not rows or not summary:
        empty = "summary.json" if rows else "results.jsonl"
        raise ValueError(f"{folder / empty} holds no result: the sweep has asked nothing")
    return manifest, rows, summary, notes


def _rows(path: Path) -> list[dict[str, Any] | None]:
    """The rows of the summary; None for one that is none."""
    try:
        content = read_json(path)
        if not isinstance(content, list):
            raise ValueError(f"a list of rows is needed, got {type(content).__name__}")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    found: list[dict[str, Any] | None] = []
    for row in content:
        try:
            found.append(check(row, "summary"))
        except ValueError:
            found.append(None)
    return found


def _score(row: dict[str, Any]) -> Score:
    value, low, high, p_value = (number(row.get(name)) for name in ("value", "low", "high", "p_value"))
    return Score(value, low, high, int(row.get("n") or 0), int(row.get("seeds") or 0), p_value)


def _costs(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Cost]]:
    """By setting and task: means over cells; a cell repeats its costs for every metric, so the first row is read."""
    once: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        once.setdefault((str(row["cell"]), str(row["task"])), row)
    parts: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for (_, task), row in once.items():
        parts[key(str(row["name"]), row.get("keep"))][task].append(row)
    found: dict[str, dict[str, Cost]] = defaultdict(dict)
    for setting, by_task in parts.items():
        for task, cells in by_task.items():
            ups = [u for row in cells if math.isfinite(u := number(row.get("speedup")))]
            plain = {name: mean(number(row.get(name)) for row in cells) for name in MEANS}
            span = (min(ups), max(ups)) if ups else (NAN, NAN)
            found[setting][task] = Cost(**plain, speedup=geometric(ups), slowest=span[0], fastest=span[1])
    return found


def _metrics(
    manifest: dict[str, Any], summary: Sequence[dict[str, Any]], settings: Sequence[StrategyAtKeep]
) -> tuple[Metric, ...]:  # fmt: skip
    found = []
    for task, name in dict.fromkeys((str(row["task"]), str(row["metric"])) for row in summary):
        declared = ((manifest.get("tasks") or {}).get(task) or {}).get("metrics") or {}
        more = declared.get(name, not name.lower().startswith(_LOWER))
        # lmms-eval wants every metric to have a direction; of these neither is better.
        better = 0 if more is None or name.endswith(_NEITHER) else 1 if more else -1
        scores = [s.scores[task, name] for s in settings if (task, name) in s.scores]
        figures = [v for score in scores for v in (score.value, score.high) if math.isfinite(v)]
        share = bool(figures) and all(0 <= v <= 1 for v in figures)
        found.append(Metric(task, name, better, share))
    return tuple(found)


def _headline(metrics: Sequence[Metric]) -> Metric:
    """The first the task names of which more or less is better."""
    return next((metric for metric in metrics if metric.better), metrics[0])
