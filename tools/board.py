"""The leaderboard of docs/results.md, from what `python benchmarks/leaderboard.py` recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared import markdown, read

COLUMNS = {"all": "all", "digits": "digits", "where": "where", "counting": "counting", "pope": "POPE adversarial"}


def board(model: str = "scenes-llava") -> str:
    """The tables of what was recorded of a model."""
    return table(read(f"leaderboard-{model}"))


def table(found: Mapping[str, Any]) -> str:
    """A table for each keep, the best first, and under it what is better than both floors in words."""
    rows, about = found["rows"], found["conditions"]
    full = next(row for row in rows if row["strategy"] == "none")
    keeps = sorted({row["keep"] for row in rows if row["strategy"] != "none"}, reverse=True)
    parts = [_table(keep, full, [row for row in rows if row["keep"] == keep and row is not full]) for keep in keeps]
    asked = f"{about['questions_per_seed']} questions a seed, {about['seeds']} seeds"
    left = [one["why"] for one in found.get("left_out", [])]
    told = [
        f"{asked}; 95% intervals over scenes. *Better* is said where the paired interval of all questions lies above "
        "both `random` and `downsample` at the same keep, *worse* where it lies below either. CHAIR is the share of "
        f"mentions that are not there. {_times(about) if 'first_token' in full else 'Times were not measured'} "
        "([benchmarks/leaderboard.py](benchmarks.md)).",
        *(
            f"Added later: {', '.join(f'`{name}`' for name in run['strategies'])} ({run['device']})."
            for run in about.get("added", [])
        ),
        *([f"Left out: {'; '.join(left)}."] if left else []),
    ]
    return "\n\n".join([*parts, *told]) + "\n"


def _times(about: Mapping[str, Any]) -> str:
    return (
        "First token: its time over the unpruned model's (below 1 it comes sooner), one "
        f"prompt, {about['threads']} threads, {about['device']}; selecting in ms"
    )


def _table(keep: float, full: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    ranked = sorted(rows, key=lambda row: -row["accuracy"]["all"]["value"])
    names = [name for name in COLUMNS if name in full["accuracy"]]
    head = [
        "strategy",
        *(COLUMNS[name] for name in names),
        "CHAIR",
        "tokens",
        *(["first token, of the time", "selecting"] if "first_token" in full else []),
        "",
    ]
    lines = [f"**keep {keep:g}**", "", markdown(head, [_line(row, names) for row in [full, *ranked]])]
    better = [f"`{row['strategy']}`" for row in ranked if row.get("better")]
    unknown = not any("better" in row for row in ranked)
    said = "Nothing is compared with both floors." if unknown else "Nothing is better than both floors."
    return "\n".join([*lines, f"Better than both floors: {', '.join(better)}." if better else said])


def _line(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    accuracy, chair = row["accuracy"], row.get("chair", {}).get("chair_i")
    whole = accuracy["all"]
    values = [f"{100 * accuracy[name]['value']:.1f}" if name in accuracy else "" for name in names]
    values[0] += f" [{100 * whole['low']:.1f}, {100 * whole['high']:.1f}]"
    verdict = "better" if row.get("better") else "worse" if row.get("worse") else ""
    return [
        f"`{row['strategy']}`",
        *values,
        f"{100 * chair['value']:.1f}" if chair else "",
        f"{row['tokens_per_layer']:.1f}",
        *([f"{row['first_token']:.2f}", f"{1e3 * row['selecting']:.2f}"] if "first_token" in row else []),
        verdict,
    ]
