"""The tables of a sweep: one row per cell, task and metric, and their summary over seeds."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vtokens.eval.metrics import Interval, holm, mcnemar
from vtokens.eval.score import Graded, estimate

_PHASES = ("encode", "select", "prefill", "decode")


def results(graded: Sequence[Graded], manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of `results.jsonl`."""
    plain = {(g.cell.seed, g.task): _first_token(g) for g in graded if g.cell.name == "none"}
    common = {key: manifest[key] for key in ("versions", "hardware", "budget")}
    rows = []
    for g in graded:
        costs = _costs(g) | {"speedup": _over(plain.get((g.cell.seed, g.task)), _first_token(g))}
        for metric, value in g.values.items():
            figure = estimate(g.raw[metric], value, g.aggregations[metric])
            of = {"cell": g.cell.cell, "name": g.cell.name, "keep": g.cell.keep, "seed": g.cell.seed}
            rows.append(of | {"task": g.task, "metric": metric} | _figure(figure, len(g.docs)) | costs | common)
    return rows


def summary(
    graded: Sequence[Graded], figures: Sequence[Mapping[str, Any]], tasks: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of `summary.json`: every metric over the documents of all seeds.

    A seed that asks the same documents as another adds answers but no documents: intervals then resample documents, and
    the p-value is that of the first seed alone.

    Args:
        figures: the rows of `results`, which a single seed need not compute again.
        tasks: the manifest's, whose hashes tell which seeds ask the same.
    """
    once = {(row["cell"], row["task"], row["metric"]): row for row in figures}
    table: dict[tuple[Any, ...], list[Graded]] = defaultdict(list)
    for g in graded:
        table[g.cell.name, repr(g.cell.keep), g.task].append(g)
    rows: list[dict[str, Any]] = []
    for (name, _, task), group in table.items():
        same = len({tasks[task]["hash"][str(g.cell.seed)] for g in group}) < len(group)
        p_value = (
            None if name == "none" else _against(group[:1] if same else group, table.get(("none", "None", task), ()))
        )
        for metric in group[0].aggregations:
            row = {"name": name, "keep": group[0].cell.keep, "task": task, "metric": metric}
            if len(group) == 1:
                row |= {key: once[group[0].cell.cell, task, metric][key] for key in ("value", "low", "high", "n")}
            else:
                row |= _pooled(group, metric, same)
            rows.append(row | {"seeds": len(group), "p_value": p_value if metric == group[0].judge else None})
    tested = [row for row in rows if row["p_value"] is not None]
    for row, adjusted in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row["p_value"] = adjusted
    return rows


def unknown_values(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The results that have no value, such as `none#s0 mytask f1`."""
    return [f"{row['cell']} {row['task']} {row['metric']}" for row in rows if row["value"] is None]


def _pooled(group: Sequence[Graded], metric: str, same: bool) -> dict[str, Any]:
    """A metric over the documents of several seeds; `same` says whether they are the same documents."""
    raw, aggregate = [entry for g in group for entry in g.raw[metric]], group[0].aggregations[metric]
    docs = [doc for g in group for doc in g.docs] if same else None
    return _figure(estimate(raw, aggregate(raw), aggregate, docs), len(raw))


def _costs(g: Graded) -> dict[str, float]:
    answers = g.answers
    return {
        "kept_tokens": statistics.fmean(a.kept_tokens for a in answers),
        "visual_tokens": statistics.fmean(a.visual_tokens for a in answers),
        "flops_ratio": sum(a.flops for a in answers) / sum(a.flops_full for a in answers),
        "kv_ratio": sum(a.kv_bytes for a in answers) / sum(a.kv_bytes_full for a in answers),
        **{phase: statistics.fmean(getattr(a, phase) for a in answers) for phase in _PHASES},
    }


def _first_token(g: Graded) -> float:
    return statistics.median(answer.first_token for answer in g.answers)


def _over(above: float | None, below: float) -> float | None:
    return above / below if above is not None and below > 0 else None


def _figure(found: Interval | None, n: int) -> dict[str, Any]:
    if found is None:
        return {"value": None, "low": None, "high": None, "n": n}
    low, high = (bound if math.isfinite(bound) else None for bound in (found.low, found.high))
    return {"value": found.value, "low": low, "high": high, "n": n}


def _against(group: Sequence[Graded], baseline: Sequence[Graded]) -> float | None:
    """McNemar's p-value of being right equally often as `none`, on the documents both were asked."""
    plain = {(g.cell.seed, doc): c for g in baseline for doc, c in zip(g.docs, g.correct, strict=True)}
    pairs = [
        (plain[g.cell.seed, doc], correct)
        for g in group
        for doc, correct in zip(g.docs, g.correct, strict=True)
        if plain.get((g.cell.seed, doc)) is not None and correct is not None
    ]
    return mcnemar([bool(a) for a, _ in pairs], [bool(b) for _, b in pairs]).p_value if pairs else None
