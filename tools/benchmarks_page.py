"""The tables of docs/benchmarks.md: which stored tables there are, and how each is made again."""

from __future__ import annotations

import os
from pathlib import Path

import sections
from results import read

from benchmarks import reproduce, tables
from benchmarks.record import parts

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
COMMAND = "python tools/readme.py"


def stored() -> str:
    """Every stored table, with its page, how long it takes, what it needs, and with what it was measured."""
    lines = ["| table | shown in | takes | needs | measured |", "|---|---|---|---|---|"]
    for one in reproduce.every().values():
        path = ROOT / one.page
        title = path.parent.name if path.stem == "README" else path.stem
        page = "here" if path == PAGE else f"[{title}]({os.path.relpath(path, PAGE.parent)})"
        lines.append(f"| `{one.name}` | {page} | {one.takes} | {one.needs} | {_when(one.name)} |")
    return "\n".join(lines) + "\n"


def _when(name: str) -> str:
    folder = tables.RESULTS / name
    about = read(name)["conditions"] if folder.is_dir() else tables.conditions(f"{folder}.conditions.csv")
    about = next(iter(parts(about)))
    date = str(about.get("date") or about.get("created"))[:10]
    device = str(about.get("device") or about["hardware"]["cpu"]).split(" (")[0]
    return f"{date}, {device}, torch {about['versions']['torch']}, transformers {about['versions']['transformers']}"


SECTIONS = {"tables": stored}


def updated(text: str) -> str:
    """`text` of docs/benchmarks.md with fresh tables between their markers."""
    return sections.fill(text, SECTIONS, COMMAND)


def write() -> None:
    """Write them."""
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
