"""Writes the tables of docs/reports/hallucination-scenes.md: `python benchmarks/hallucination_page.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.page import Page  # noqa: E402
from benchmarks.tables import interval, markdown, read  # noqa: E402

SETTINGS = ("random", "popular", "adversarial")
ALPHA = 0.05
Row = dict[str, Any]


def conditions(result: Row) -> str:
    """What the tables were measured with, in a sentence."""
    about = result["conditions"]
    return (
        f"{about['questions']:,} yes/no questions in each of POPE's three settings and {about['captions']} captions a "
        f"split, scene seed {about['seed']}; float32, {machine(about)}. Answering took "
        f"{about['cpu_seconds'] / 60:.0f} CPU minutes for {len(result['rows'])} cells. Command: `{about['command']}`.\n"
    )


def machine(about: Row) -> str:
    """Where and when the conditions of a result say that it was measured."""
    versions = about["versions"]
    return (
        f"one thread of an {about['device'].split(' (')[0]}, transformers {versions['transformers']}, torch "
        f"{versions['torch']}, {about['date'][:10]}"
    )


def pope(rows: Sequence[Row]) -> str:
    """Accuracy in the three settings, and what is said in the hardest of them."""
    names = [name for name in SETTINGS if name in rows[0]["pope"]]
    head = ["strategy", "tokens", *(f"{name}: accuracy" for name in names), "adversarial: F1", "adversarial: yes"]
    lines = []
    for row in rows:
        cells = [_marked(row["pope"][name]["accuracy"], _test(row, name)) for name in names]
        hardest = row["pope"]["adversarial"]
        lines.append(
            [_name(row), f"{row['tokens']:.0f}", *cells, interval(hardest["f1"]), interval(hardest["yes_ratio"])]
        )
    return markdown(head, lines)


def easier(rows: Sequence[Row]) -> str:
    """F1 and the share of 'yes' in the other two settings."""
    head = ["strategy", *(f"{name}: {figure}" for name in SETTINGS[:2] for figure in ("F1", "yes"))]
    figures = [(name, key) for name in SETTINGS[:2] for key in ("f1", "yes_ratio")]
    return markdown(head, [[_name(row), *(interval(row["pope"][name][key]) for name, key in figures)] for row in rows])


def chair(rows: Sequence[Row]) -> str:
    """CHAIR with recall and length."""
    head = ["strategy", "CHAIR_S", "CHAIR_I", "recall", "length (objects)", "of them repeats"]
    lines = []
    for row in rows:
        found = row["chair"]
        cells = [_marked(found["chair_s"], _test(row, None)), *(interval(found[key]) for key in ("chair_i", "recall"))]
        lines.append([_name(row), *cells, interval(found["length"], 2), f"{found['repeats']:.2f}"])
    return markdown(head, lines)


def partners(rows: Sequence[Row]) -> str:
    """How often each missing partner is seen."""
    names = [f"{part['partner']} ({part['dose']:g})" for part in rows[0]["partners"]]
    head = ["strategy", *(f"{name}: {how}" for name in names for how in ("asked", "in captions"))]
    lines = [
        [_name(row), *(interval(part[key], 2) for part in row["partners"] for key in ("says_yes", "names_it"))]
        for row in rows
    ]
    return markdown(head, lines)


def layers(look: Row) -> str:
    """What each decoder layer sees, and which heads VHR takes."""
    taken = {row["layer"]: row for row in look["heads"]}
    head = ["layer", "phi, first token", "phi, visual (median, largest)", "first token's share", "visual share"]
    head += ["tokens for half of it", "VHR takes heads 0-3", "same heads as two branches"]
    lines = []
    for row in look["layers"]:
        mine = taken.get(row["layer"])
        chosen = ", ".join(f"{part:.2f}" for part in mine["taken"]) if mine else "-"
        cells = [
            str(row["layer"]),
            f"{row['phi_first_token']:.1f}",
            f"{row['phi_visual_median']:.1f}, {row['phi_visual_max']:.1f}",
            f"{row['mass_first_token']:.3f}",
            f"{row['mass_visual']:.2f}",
            f"{row['visual_tokens_for_half']:.0f} of 144",
            chosen,
            f"{mine['same_set_as_two_branch']:.2f}" if mine else "-",
        ]
        lines.append(cells)
    return markdown(head, lines)


def sweeps(look: Row) -> str:
    """Settings of VHR and VAR, and heads other than those that VHR takes."""
    head = ["what runs", "adversarial: accuracy", "adversarial: yes", "CHAIR_S", "CHAIR_I", "recall"]
    lines = []
    for row in (*look["controls"], *look["alpha"], *look["forced"]):
        found, caption = row["pope"]["adversarial"], row["chair"]
        figures = [found["accuracy"], found["yes_ratio"], caption["chair_s"], caption["chair_i"], caption["recall"]]
        lines.append([row["label"], *map(interval, figures)])
    return markdown(head, lines)


def sections() -> dict[str, str]:
    """Every generated part of the page by its name."""
    result, look = (read(name) for name in ("hallucination-scenes", "hallucination-look"))
    found = {"conditions": conditions(result), "layers": layers(look), "sweeps": sweeps(look)}
    tables: dict[str, Callable[[Sequence[Row]], str]] = {"pope": pope, "easier": easier, "chair": chair}
    for split in dict.fromkeys(row["split"] for row in result["rows"]):
        rows = distinct([row for row in result["rows"] if row["split"] == split])
        found |= {f"{name} {split}": table(rows) for name, table in tables.items()}
    found["partners"] = partners(distinct([row for row in result["rows"] if row["split"] == "partner-removed"]))
    return found


def distinct(rows: Sequence[Row]) -> list[Row]:
    """The rows without those on top of a pruner whose figures are all those of a row before."""
    kept: list[Row] = []
    for row in rows:
        same = (other for other in kept if all(other[key] == row[key] for key in ("pope", "chair", "partners")))
        if row["base"] in (None, "none") or next(same, None) is None:
            kept.append(row)
    return kept


def _name(row: Row) -> str:
    base = row["base"]
    if base is None or base == "none":
        return f"`{row['strategy']}`"
    return f"&nbsp;&nbsp;`+{row['strategy'].removeprefix(base + '+')}`"


def _test(row: Row, setting: str | None) -> Row | None:
    if "against" not in row:
        return None
    found = row["against"]
    test = found["chair"]["chair_s"] if setting is None else found["pope"][setting]["accuracy"]
    return dict(test)


def _marked(found: Row, test: Row | None) -> str:
    """Bold where the paired test says better than the base, with a dagger where it says worse."""
    text = interval(found)
    if test is None or test["holm"] >= ALPHA:
        return text
    return f"**{text}**" if test["only_a"] > test["only_b"] else f"{text} †"


PAGE = Page(ROOT / "docs" / "reports" / "hallucination-scenes.md", "python benchmarks/hallucination_page.py", sections)

if __name__ == "__main__":
    PAGE.write()
