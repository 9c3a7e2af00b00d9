"""The measured tables in docs/strategies, from the recorded results; `python tools/readme.py` writes them too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "strategies"
RESULTS = ROOT / "benchmarks" / "results"


def scenes(name: str) -> str:
    """Accuracy of a pruner against its budget, beside what random pruning keeps."""
    rows = {(row["strategy"], row["keep"]): row for row in _read("scenes-llava.json")["rows"]}
    lines = ["| keep | tokens a layer | accuracy, all questions | random |", "|---|---|---|---|"]
    full = rows["none", 1.0]
    lines.append(f"| full | {full['tokens_per_layer']:.0f} | {_share(full)} | |")
    for strategy, keep in sorted(rows, key=lambda key: -key[1]):
        if strategy == name:
            row = rows[strategy, keep]
            lines.append(
                f"| {keep:g} | {row['tokens_per_layer']:.1f} | {_share(row)} | {_share(rows['random', keep])} |"
            )
    return "\n".join(
        [
            *lines,
            "",
            "990 questions of eleven kinds, 95% intervals ([benchmarks/scenes.py](../../benchmarks/README.md)).",
            "",
        ]
    )


def agreement(name: str) -> str:
    """How often VHR's two divergences pick the same heads."""
    found = _read("heads-scenes.json")
    lines = ["| layer | heads decided alike | same set |", "|---|---|---|"]
    lines += [
        f"| {layer} | {row['heads_decided_alike']:.0%} | {row['same_set']:.0%} |"
        for layer, row in found["layers"].items()
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"Prompts of {found['questions']} held-out questions on the embedded model, {found['heads']} heads a layer "
            "([benchmarks/heads.py](../../benchmarks/README.md)). Two random halves would decide 50% alike, and be the "
            "same set in 17% of the cases.",
            "",
        ]
    )


SECTIONS = {"scenes": scenes, "agreement": agreement}


def updated(name: str, text: str) -> str:
    """The page of strategy `name` with fresh tables between its markers."""
    for section, table in SECTIONS.items():
        start, end = f"<!-- {section}: python tools/readme.py -->\n", f"<!-- end of {section} -->"
        if start in text:
            head, rest = text.split(start)
            text = head + start + table(name) + end + rest.split(end)[1]
    return text


def write() -> None:
    """Bring all pages up to date."""
    for page in PAGES.glob("*.md"):
        page.write_text(updated(page.stem, page.read_text(encoding="utf-8")), encoding="utf-8")


def _share(row: dict[str, Any]) -> str:
    part = row["accuracy"]["overall"]
    return f"{part['share']:.3f} [{part['low']:.3f}, {part['high']:.3f}]"


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))
