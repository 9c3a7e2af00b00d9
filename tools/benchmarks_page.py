"""The tables of docs/benchmarks.md: other libraries, how stored tables are made again, and the releases."""

from __future__ import annotations

import csv
import os
from typing import Any

from shared import COMMAND, ROOT, Page, interval, markdown, read

from benchmarks import reproduce, tables
from benchmarks.record import parts

HOME = ROOT / "docs" / "benchmarks.md"
TREND = ("none", "census", "cls", "fastv")


def stored() -> str:
    """Every stored table, with its page, how long it takes, what it needs, and with what it was measured."""
    lines = []
    for one in reproduce.every().values():
        path = ROOT / one.page
        title = path.parent.name if path.stem == "README" else path.stem
        page = "here" if path == HOME else f"[{title}]({os.path.relpath(path, HOME.parent)})"
        lines.append([f"`{one.name}`", page, one.takes, one.needs, _when(one.name), f"{one.checked}"])
    return markdown(["table", "shown in", "takes", "needs", "measured", "made again"], lines)


def _when(name: str) -> str:
    folder = tables.RESULTS / name
    about = read(name)["conditions"] if folder.is_dir() else tables.conditions(f"{folder}.conditions.csv")
    about = next(iter(parts(about)))
    date = str(about.get("date") or about.get("created"))[:10]
    device = str(about.get("device") or about["hardware"]["cpu"]).split(" (")[0]
    return f"{date}, {device}, {about['versions']['transformers']}"


def peers() -> str:
    """The same model and prompts under plain transformers, this library and kvpress."""
    found = read("peers-cpu")
    about, times = found["conditions"], {(row["library"], row["method"]): row for row in found["times"]}
    right = {(row["library"], row["method"], row["keep"]): row["accuracy"] for row in found["accuracy"]}
    keeps = sorted({keep for _, _, keep in right} - {1.0}, reverse=True)
    heads = [f"right at keep {keep:g}" for keep in keeps]
    lines = []
    plain = times["transformers", "none"]
    for (library, method), row in times.items():
        name = f"transformers {_transformers(about, library)}" if method == "none" else f"{library} `{method}`"
        cells = [interval(right.get((library, method, keep)) or right[library, method, 1.0]) for keep in keeps]
        cells += [f"{row['over_plain']['median']:.2f} ({row['over_plain']['q1']:.2f} to {row['over_plain']['q3']:.2f})"]
        cells += [f"{1 / row['step_seconds']['median']:.1f}", f"{row['kv_bytes'] / plain['kv_bytes']:.2f}"]
        lines.append([name, *cells, f"{row['peak_bytes'] / 2**20:.0f} MiB"])
    begin, end = (about["load_average"][when][0] for when in ("at_start", "at_end"))
    told = (
        f"{about['questions']} questions of `{about['answers_of']}`, 95% intervals; times, cache (over all of it) and "
        f"peak memory at keep {min(keeps):g} on `{about['shape']}`, {about['parameters'] / 1e6:.0f}M, "
        f"{about['dtype']}, one thread of an {about['device']}, {about['clock']}, {about['rounds']} rounds, load "
        f"average {begin} to {end}; torch {about['versions']['torch']}, kvpress {about['kvpress']['kvpress']}; "
        f"{about['date'][:10]}. Command: `{about['command']}`."
    )
    head = ["", *heads, "first token", "tokens a second", "KV cache", "peak memory"]
    return f"{markdown(head, lines)}\n{told}\n"


def _transformers(about: dict[str, Any], library: str) -> str:
    return str(about["versions"]["transformers"] if library == "transformers" else about["kvpress"]["transformers"])


def trend() -> str:
    """A row a release."""
    heads = [
        "release",
        "first token, `cls`",
        *(f"`{name}`" for name in TREND),
        "strategies",
        "families",
        "tests",
        "wheel",
    ]
    lines = []
    with (tables.RESULTS / "trend.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            shares = [f"{int(row[f'{name}_right']) / int(row['questions']):.3f}" for name in TREND]
            cells = [row["release"], f"{float(row['cls_first_token']):.2f}x", *shares]
            cells += [row["strategies"], row["families"], row["tests"], f"{int(row['wheel_bytes']) / 2**20:.1f} MiB"]
            lines.append(cells)
    return markdown(heads, lines)


PAGE = Page(HOME, COMMAND, {"peers": peers, "tables": stored, "trend": trend})
