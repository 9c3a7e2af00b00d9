"""Writes the tables and pictures of docs/reports/mitigation.md: `python benchmarks/mitigation_page.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reports" / "mitigation.md"
sys.path.insert(0, str(ROOT))

from benchmarks.hallucination_page import machine, show  # noqa: E402
from benchmarks.tables import filled, markdown, read  # noqa: E402

COMMAND = "python benchmarks/mitigation_page.py"
SETTINGS = ("random", "popular", "adversarial")
COSTS = ("mitigation-cpu", "contrastive-cpu", "attention-cpu")
"""Results that hold what a strategy costs, the first that has it counts."""
ALPHA = 0.05
Row = dict[str, Any]


def conditions(result: Row) -> str:
    """What was asked of which model, a line each."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        about = result["conditions"][model]
        asked = ", ".join(f"{n} {name}" for name, n in about["questions"].items())
        tables = (row for row in result["rows"] if row["model"] == model and row["strategy"] == row["base"])
        done = "; ".join(f"{_alone(row['base'])} {len(row['draws'])}" for row in tables)
        lines.append(
            f"- `{model}`: {asked} questions and {about['captions']} captions a draw of the test split; draws: {done}. "
            f"{about['dtype'].capitalize()}, {machine(about)}."
        )
    return "\n".join(lines) + "\n"


def glance(rows: Sequence[Row], costs: dict[str, Row]) -> str:
    """One row a method: the six figures with their marks, evidence and cost."""
    head = ["", "adversarial: accuracy", "F1", "yes", "CHAIR_I", "recall", "length", "in sum", "evidence", "cost"]
    lines = []
    for row in rows:
        name = row["strategy"].removeprefix(row["base"] + "+")
        if "refused" in row:
            lines.append([f"`{name}`", *["-"] * 6, "refused beside it", _evidence(row), _cost(name, costs)])
            continue
        hard, told = row["pope"]["adversarial"], row["chair"]
        figures = [
            _good(hard["accuracy"], verdict(row, "accuracy")),
            _plain(hard["f1"]),
            _moved(hard["yes_ratio"], change(row, "says_yes")),
            _good(told["chair_i"], verdict(row, "invented")),
            _good(told["recall"], verdict(row, "recall")),
            _moved(told["length"], change(row, "length"), 2),
        ]
        cells = [summary(row), _evidence(row), _cost(name, costs)] if "against" in row else ["", "", ""]
        lines.append([f"`{name}`", *figures, *cells])
    return markdown(head, lines)


def details(rows: Sequence[Row]) -> str:
    """Everything with intervals."""
    head = ["", "tokens", *(f"{name}: accuracy" for name in SETTINGS)]
    head += ["random: F1, yes", "popular: F1, yes", "adversarial: F1", "adversarial: yes"]
    head += ["CHAIR_S", "CHAIR_I", "recall", "length", "repeats"]
    lines = []
    for row in rows:
        if "refused" in row:
            continue
        pope, told = row["pope"], row["chair"]
        cells = [f"`{row['strategy'].removeprefix(row['base'] + '+')}`", f"{row['tokens']:.0f}"]
        cells += [show(pope[name]["accuracy"]) for name in SETTINGS]
        cells += [f"{_plain(pope[name]['f1'])}, {_plain(pope[name]['yes_ratio'])}" for name in SETTINGS[:2]]
        cells += [show(pope["adversarial"][key]) for key in ("f1", "yes_ratio")]
        cells += [show(told[key]) for key in ("chair_s", "chair_i", "recall")]
        lines.append([*cells, show(told["length"], 2), f"{told['repeats']:.2f}"])
    return markdown(head, lines)


def changes(rows: Sequence[Row]) -> str:
    """What became of adversarial answers, of captions, and draw by draw."""
    head = ["", "made up", "no longer", "lost", "found", "neither yes nor no"]
    head += ["captions that invent more / less", "recall more / less", "are longer / shorter"]
    head += ["adversarial accuracy, draw by draw", "CHAIR_I"]
    lines = []
    for row in rows:
        if "against" not in row:
            continue
        flips, signs = row["flips"], row["against"]["signs"]
        cells = [f"{flips[name]}" for name in ("made up", "no longer made up", "lost", "found", "neither")]
        cells += [f"{signs[k]['only_a']} / {signs[k]['only_b']}" for k in ("invented", "recall", "length")]
        cells += [", ".join(f"{part[k]:.3f}" for part in row["by_draw"]) for k in ("adversarial", "chair_i")]
        lines.append([f"`{row['strategy'].removeprefix(row['base'] + '+')}`", *cells])
    return markdown(head, lines)


def verdict(row: Row, figure: str) -> int:
    """1 where the paired test says better, -1 worse, 0 neither."""
    found = change(row, figure)
    return -found if figure == "invented" else found


def change(row: Row, figure: str) -> int:
    """1 where the paired test, adjusted, says more, -1 less, 0 neither."""
    if "against" not in row:
        return 0
    hard = row["against"]["pope"]["adversarial"]
    test = hard[figure] if figure in hard else row["against"]["signs"][figure]
    return 0 if test["holm"] >= ALPHA else 1 if test["only_a"] > test["only_b"] else -1


def summary(row: Row) -> str:
    """In a word: what the marks of accuracy, inventions and recall say together, easier settings included."""
    found = {verdict(row, name) for name in ("accuracy", "invented", "recall")}
    for name in SETTINGS[:2]:
        test = row["against"]["pope"][name]["accuracy"]
        found.add(0 if test["holm"] >= ALPHA else 1 if test["only_a"] > test["only_b"] else -1)
    if {1, -1} <= found:
        return "trades"
    if 1 in found:
        return "**helps**"
    return "hurts †" if -1 in found else "same answers" if row["against"]["same_replies"] == 1 else ""


def prices() -> dict[str, Row]:
    """What runs cost over plain attention, by spec."""
    found: dict[str, Row] = {}
    for name in COSTS:
        for row in read(name)["rows"]:
            found.setdefault(row["run"].replace('"', "'"), row)
    return found


def sections() -> dict[str, str]:
    """Every generated part of the page by its name."""
    result, costs = read("mitigation"), prices()
    found = {"conditions": conditions(result)}
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        for base in dict.fromkeys(row["base"] for row in result["rows"]):
            rows = [row for row in result["rows"] if (row["model"], row["base"]) == (model, base)]
            place = f"{model.removeprefix('scenes-')} {_alone(base)}"
            for name, text in (("details", details), ("changes", changes)):
                found[f"{name} {place}"] = text(rows) if rows else "Not measured.\n"
            found[f"glance {place}"] = glance(rows, costs) if rows else "Not measured.\n"
    return found


def updated(text: str) -> str:
    """`text` with fresh tables between their markers; KeyError for a marker that names no table."""
    return filled(text, sections(), COMMAND)


def _alone(base: str) -> str:
    return {"none": "alone", "cls(keep=0.25)+census": "census"}.get(base, base.split("(")[0])


def _plain(interval: Row | None, digits: int = 3) -> str:
    return "-" if interval is None else f"{interval['value']:.{digits}f}"


def _good(interval: Row, mark: int) -> str:
    text = _plain(interval)
    return f"**{text}**" if mark > 0 else f"{text} †" if mark < 0 else text


def _moved(interval: Row, mark: int, digits: int = 3) -> str:
    return _plain(interval, digits) + {1: " ↑", -1: " ↓"}.get(mark, "")


def _evidence(row: Row) -> str:
    return row["evidence"] or "ours"


def _cost(name: str, costs: dict[str, Row]) -> str:
    row = costs.get(name)
    if row is None:
        return "-"
    return f"{row['prefill']['over_plain']['median']:.2f}, {row['token']['over_plain']['median']:.2f}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
