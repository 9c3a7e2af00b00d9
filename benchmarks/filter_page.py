"""Writes the tables of docs/reports/filter-scenes.md from the results: `python benchmarks/filter_page.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.page import Page  # noqa: E402
from benchmarks.tables import interval, markdown, read  # noqa: E402

Row = dict[str, Any]


def conditions(result: Row) -> str:
    """What was measured, on what."""
    about = result["conditions"]
    lines = [["strategy", "split", "responses", "mentions", "unsupported", "share"]]
    for counts in result["responses"]:
        share = counts["unsupported"] / counts["mentions"]
        numbers = [f"{counts[key]:,}" for key in ("responses", "mentions", "unsupported")]
        lines.append([f"`{counts['strategy']}`", counts["split"], *numbers, f"{share:.3f}"])
    versions = about["versions"]
    runs = " ".join(f"`{s['command']}`, {s['resamples']} bootstrap samples of images." for s in result["settings"])
    return (
        f"{about['dtype'].capitalize()}, one thread of an {about['device'].split(' (')[0]}, "
        f"transformers {versions['transformers']}, torch {versions['torch']}, "
        f"{about['date'][:10]}. {runs}\n\n{markdown(lines[0], lines[1:])}"
    )


def signals(setting: Row) -> str:
    """Each signal alone: AUROC, and within positions."""
    rows = [row for row in setting["rows"] if row["what"] == "signal"]
    splits = list(dict.fromkeys(row["split"] for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    at = {(row["name"], row["split"], row["scope"]): row for row in rows}
    names.sort(key=lambda name: -_value(at[name, splits[0], "all"]["auroc"]))
    head = ["signal", "all", "stratified", "AP", "captions", "answers"]
    lines = []
    for name in names:
        row = at[name, splits[0], "all"]
        parts = [row["auroc"], row["stratified"], row["ap"]]
        parts += [at[name, splits[0], scope]["auroc"] for scope in ("captions", "answers")]
        lines.append(
            [f"`{name}`", *map(interval, parts), *(interval(at[name, split, "all"]["auroc"]) for split in splits[1:])]
        )
    return markdown([*head, *splits[1:]], lines)


def alone(result: Row) -> str:
    """Every signal of the registry by itself, a column for each model and set of responses, sorted by the last one."""
    places = list(dict.fromkeys((row["model"], row["set"]) for row in result["rows"]))
    at = {(row["signal"], row["model"], row["set"]): row for row in result["rows"]}
    first = places[-1]
    names = {row["signal"]: row["passes"] for row in result["rows"]}
    order = sorted(names, key=lambda name: -_value(at.get((name, *first), {}).get("auroc")))
    head = ["signal", "passes", *(f"`{model}`, {name}" for model, name in places)]
    counts = [at[order[0], *place] for place in places]
    lines = [["*unsupported of mentions*", "", *(f"{row['positives']} of {row['n']}" for row in counts)]]
    for name in order:
        cells = [interval(at[name, *place]["auroc"]) if (name, *place) in at else "-" for place in places]
        lines.append([f"`{name}`", str(names[name]), *cells])
    return markdown(head, lines)


def combined(setting: Row, split: str) -> str:
    """The combined detectors beside what fools papers, on one split."""
    head = ["score", "on", "AUROC", "stratified", "AP", "ECE", "Brier", "AURC (excess)", "AUGRC", "real kept"]
    lines = [head]
    for scope in ("all", "captions", "answers"):
        rows = [r for r in setting["rows"] if r["split"] == split and r["scope"] == scope and r["what"] != "signal"]
        for row in sorted(rows, key=lambda r: r["what"], reverse=True):
            name = f"**{row['name']}**" if row["what"] == "combined" else row["name"]
            figures = [interval(row[key]) for key in ("auroc", "stratified", "ap", "ece", "brier")]
            aurc = f"{_value(row['aurc']):.4f} ({_value(row['excess_aurc']):.4f})"
            kept = ", ".join(f"{_value(value):.2f} at {risk}" for risk, value in row["kept_real"].items() if value)
            lines.append([name, scope, *figures, aurc, f"{_value(row['augrc']):.4f}", kept])
    return markdown(lines[0], lines[1:])


def advantage(setting: Row) -> str:
    """By how much all signals together beat the rest."""
    lines = [["on", "over", "AUROC", "stratified"]]
    for row in (r for r in setting["advantage"] if r["scope"] == "all"):
        lines.append(
            [row["split"], row["over"], interval(row["auroc"], sign="+"), interval(row["stratified"], sign="+")]
        )
    return markdown(lines[0], lines[1:])


def ablation(setting: Row) -> str:
    """What the project's own signal adds."""
    lines = [["on", "to", "AUROC", "AP"]]
    for row in setting["ablation"]:
        lines.append(
            [row["split"], row["to"].split(" ")[0], interval(row["auroc"], sign="+"), interval(row["ap"], sign="+")]
        )
    return markdown(lines[0], lines[1:])


def guarantees(setting: Row) -> str:
    """What thresholds guarantee and what they do, over many splits."""
    lines = [["split", "guarantee", "unfiltered", "mean risk", "broken", "feasible", "supported mentions kept"]]
    for row in setting["promises"]:
        kept = "" if row["kept"] is None else f"{row['kept']:.3f}"
        risk = f"{row['risk']:.4f} ± {row['standard_error']:.4f}"
        cells = [f"{row['unfiltered']:.3f}", risk, f"{row['broken']:.2f}", f"{row['feasible']:.2f}", kept]
        lines.append([row["split"], _guarantee(row), *cells])
    return markdown(lines[0], lines[1:])


def carried(setting: Row) -> str:
    """One threshold from the calibration split, on the other splits."""
    lines = [["guarantee", "on", "unfiltered", "risk", "supported mentions kept"]]
    for row in setting["carried_over"]:
        mark = " †" if row["risk"] > row["alpha"] else ""
        lines.append(
            [_guarantee(row), row["set"], f"{row['unfiltered']:.3f}", f"{row['risk']:.3f}{mark}", f"{row['kept']:.3f}"]
        )
    return markdown(lines[0], lines[1:])


def truncation(setting: Row) -> str:
    """Captions cut after some objects, beside the filter at the same recall."""
    lines = [["split", "objects kept", "CHAIR_I cut", "recall cut", "CHAIR_I filtered", "recall filtered"]]
    for row in setting["truncation"]:
        cut, found = row["truncated"], row["filtered"]
        parts = [cut["chair_i"], cut["recall"], found["chair_i"], found["recall"]]
        lines.append([row["split"], f"first {row['objects']}", *map(interval, parts)])
    return markdown(lines[0], lines[1:])


def actions(result: Row, split: str) -> str:
    """What acting on captions does, at several thresholds."""
    lines = [["action", "CHAIR_S", "CHAIR_I", "change", "recall", "change", "objects", "passes"]]
    for row in (r for r in result["rows"] if r["split"] == split):
        figures = [row["chair_s"], row["chair_i"]]
        cells = [*map(interval, figures), interval(row["chair_i_change"], sign="+"), interval(row["recall"])]
        cells += [interval(row["recall_change"], sign="+"), f"{row['length']['value']:.2f}"]
        lines.append([_action(row), *cells, f"{row['passes']:.2f}" if "passes" in row else "1.00"])
    return markdown(lines[0], lines[1:])


def sections() -> dict[str, str]:
    """Every generated part of the page by its name."""
    result, acted = (read(name) for name in ("filter-scenes", "filter-actions"))
    found = {"conditions": conditions(result), "every signal": alone(read("filter-signals"))}
    found |= {f"actions {split}": actions(acted, split) for split in dict.fromkeys(r["split"] for r in acted["rows"])}
    tables: dict[str, Callable[[Row], str]] = {
        "signals": signals,
        "advantage": advantage,
        "ablation": ablation,
        "guarantees": guarantees,
        "carried": carried,
        "truncation": truncation,
    }
    for spec in (row["strategy"] for row in result["settings"]):
        setting = {
            name: [row for row in rows if row["strategy"] == spec]
            for name, rows in result.items()
            if name != "conditions"
        }
        place = "" if spec == "none" else f" {spec.split('(')[0]}"
        found |= {f"{name}{place}": table(setting) for name, table in tables.items()}
        for split in dict.fromkeys(row["split"] for row in setting["rows"]):
            found[f"combined {split}{place}"] = combined(setting, split)
    return found


def _action(row: Row) -> str:
    if row["action"] == "truncate":
        return f"cut after {row['objects']}"
    if row["action"] == "flag":
        return "nothing"
    how = f" by `{'`, `'.join(row['retries'])}`" if "retries" in row else ""
    return f"{row['action']}{how}, p > {row['threshold']:g}"


def _guarantee(row: Row) -> str:
    sure = "on average" if row["delta"] is None else f"sure to {1 - row['delta']:g}"
    return f"{row['kind']} ≤ {row['alpha']:g}, {sure}"


def _value(interval: Row | None) -> float:
    return float("nan") if interval is None else float(interval["value"])


PAGE = Page(ROOT / "docs" / "reports" / "filter-scenes.md", "python benchmarks/filter_page.py", sections, some=True)

if __name__ == "__main__":
    PAGE.write()
