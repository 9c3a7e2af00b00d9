"""Writes the tables of docs/reports/mitigation.md: `python benchmarks/mitigation_page.py`."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.hallucination_page import machine  # noqa: E402
from benchmarks.hallucination_rows import adjust  # noqa: E402
from benchmarks.mitigation_recipes import OPERA, below, recipe_in  # noqa: E402
from benchmarks.mitigation_rows import BASES, POOLED, mitigations  # noqa: E402
from benchmarks.page import Page  # noqa: E402
from benchmarks.tables import RESULTS, interval, markdown, read  # noqa: E402
from vtokens.recipes.looking.registry import recipes  # noqa: E402
from vtokens.strategies import parse  # noqa: E402
from vtokens.strategies.registry import describe  # noqa: E402

SETTINGS = ("random", "popular", "adversarial")
EXAMS = {
    "scenes-llava": ("hallucination-scenes", "contrastive-scenes", "mitigation"),
    "scenes-smol": ("hallucination-scenes-smol", "mitigation"),
}
"""Results that hold figures of a model: each has its own questions, and a row of the plain model on them."""
COSTS = ("mitigation-cpu", "pine-cpu", "contrastive-cpu", "attention-cpu")
"""Results that hold what a strategy costs; the first that has it counts."""
SEEDS = "mitigation-seeds"
"""What several trained seeds of scenes-llava answered."""
ALPHA = 0.05
MATTERS = 0.01
"""A method hurts whose F1 or recall falls by more than this, all of the interval of the difference."""
Row = dict[str, Any]


def gathered(model: str, base: str) -> list[Row]:
    """The base and what runs on it, exam by exam; each method once, where most was asked, tests adjusted together."""
    exams: list[list[Row]] = []
    for source in measured(model):
        rows = [row for row in _read(source)["rows"] if row.get("model", model) == model]
        rows = [copy.deepcopy(row) for row in rows if row.get("split", "test") == "test"]
        first = [row for row in rows if row["strategy"] == base]
        exams.append(first + [row for row in rows if row["base"] == base != row["strategy"] and _single(row)])
    best: dict[str, int] = {}
    for row in (row for exam in exams for row in exam[1:]):
        best[row["strategy"]] = max(best.get(row["strategy"], 0), asked(row)[0])
    found: list[Row] = []
    for exam in exams:
        mine = [row for row in exam[1:] if best[row["strategy"]] == asked(row)[0] and not _among(row, found)]
        found += exam[:1] + mine if mine else []
    return adjusted(found)


def measured(model: str) -> list[str]:
    """The results of a model that are there."""
    return [name for name in EXAMS[model] if (RESULTS / name).is_dir()]


def adjusted(rows: list[Row]) -> list[Row]:
    """The rows, whose p-values of accuracy, of saying yes to adversarial questions and of CHAIR_S are of one family."""
    adjust([test for row in rows for test in _tests(row)])
    return rows


def asked(row: Row) -> tuple[int, int]:
    """Adversarial questions and captions."""
    return (0, 0) if "refused" in row else (row["pope"]["adversarial"]["n"], row["chair"]["n"])


def changed(row: Row, figure: str, setting: str = "adversarial") -> int:
    """1 where the paired test or interval says more than the base, -1 less, 0 neither."""
    if "against" not in row or (figure in ("accuracy", "says_yes", "f1") and setting not in row["against"]["pope"]):
        return 0
    parts = row["against"]["chair"] | row["against"]["pope"].get(setting, {})
    found = parts[figure]
    if found is None:
        return 0
    if "holm" in found:
        return 0 if found["holm"] >= ALPHA else 1 if found["only_a"] > found["only_b"] else -1
    return 1 if found["low"] > 0 else -1 if found["high"] < 0 else 0


def summary(row: Row) -> str:
    """In a word what the tests say: of accuracy in each setting, of captions without inventions, of F1 and recall."""
    if "against" not in row:
        return ""
    found = {changed(row, "accuracy", name) for name in SETTINGS} | {changed(row, "chair_s")}
    drops = (row["against"]["chair"]["recall"], row["against"]["pope"]["adversarial"]["f1"])
    found |= {-1 for drop in drops if drop is not None and drop["high"] < -MATTERS}
    if {1, -1} <= found:
        return "trades"
    if 1 in found:
        return "**helps**"
    return "hurts †" if -1 in found else "same answers" if row["against"]["same_replies"] == 1 else "nothing shown"


def marked(row: Row) -> dict[str, str]:
    """The main figures of a row, with the marks of their tests, by the heads of their columns."""
    hard, told = row["pope"]["adversarial"], row["chair"]
    return {
        "accuracy": _tested(hard["accuracy"], changed(row, "accuracy")),
        "F1": _moved(hard["f1"], changed(row, "f1")),
        "yes": _moved(hard["yes_ratio"], changed(row, "says_yes")),
        "CHAIR_S": _tested(told["chair_s"], changed(row, "chair_s")),
        "CHAIR_I": _moved(told["chair_i"], changed(row, "chair_i")),
        "recall": _moved(told["recall"], changed(row, "recall")),
        "length": _moved(told["length"], changed(row, "length"), 2),
    }


def glance(rows: Sequence[Row], costs: dict[str, Row]) -> str:
    """One row a method: the figures with their marks, evidence and cost."""
    head = ["", "asked", "accuracy", "F1", "yes", "CHAIR_S", "CHAIR_I", "recall", "length"]
    head += ["in sum", "evidence", "cost"]
    lines = []
    for row in rows:
        name = _name(row)
        evidence = _evidence(row)
        if "refused" in row:
            lines.append([f"`{name}`", *["-"] * 8, "refused", evidence, _cost(row, costs)])
            continue
        figures = marked(row).values()
        cells = [summary(row), evidence, _cost(row, costs)] if _is_method(row) else [summary(row), "", ""]
        lines.append([f"`{name}`", " / ".join(map(str, asked(row))), *figures, *cells])
    return markdown(head, lines)


def details(rows: Sequence[Row]) -> str:
    """All settings, with intervals."""
    head = ["", "asked", "tokens"]
    head += [f"{name}: {figure}" for name in SETTINGS for figure in ("accuracy", "F1", "yes")]
    head += ["CHAIR_S", "CHAIR_I", "recall", "length", "repeats"]
    lines = []
    for row in (row for row in rows if "refused" not in row):
        cells = [f"`{_name(row)}`", " / ".join(map(str, asked(row))), f"{row['tokens']:.0f}"]
        for name in SETTINGS:
            part = row["pope"].get(name)
            mark = " †" if changed(row, "accuracy", name) < 0 else ""
            cells += (
                ["-"] * 3
                if part is None
                else [interval(part["accuracy"]) + mark, _plain(part["f1"]), _plain(part["yes_ratio"])]
            )
        cells += [interval(row["chair"][key]) for key in ("chair_s", "chair_i", "recall")]
        lines.append([*cells, interval(row["chair"]["length"], 2), f"{row['chair']['repeats']:.2f}"])
    return markdown(head, lines)


def said(rows: Sequence[Row]) -> str:
    """What adversarial answers became: yes to what is there, and to what is not."""
    head = ["", "yes to what is there", "yes to what is missing", "got right", "got wrong", "became yes", "became no"]
    lines = []
    for row in (row for row in rows if "refused" not in row):
        there, missing = rates(row)
        cells = [f"`{_name(row)}`", f"{there:.3f}", f"{missing:.3f}"]
        if "against" in row:
            tests = [row["against"]["pope"]["adversarial"][key] for key in ("accuracy", "says_yes")]
            cells += [str(test[side]) for test in tests for side in ("only_a", "only_b")]
        lines.append(cells + [""] * (len(head) - len(cells)))
    return markdown(head, lines)


def rates(row: Row) -> tuple[float, float]:
    """How often yes is said to adversarial questions about what is there, and about what is missing."""
    part = row["pope"]["adversarial"]
    total, positives = part["n"], part["recall"]["n"]
    hits, said_yes = round(part["recall"]["value"] * positives), round(part["yes_ratio"]["value"] * total)
    return hits / positives, (said_yes - hits) / (total - positives)


def conditions() -> str:
    """What each exam asked, a line each."""
    lines = []
    for source in dict.fromkeys(name for model in EXAMS for name in measured(model)):
        about = read(source)["conditions"]
        for model, names in EXAMS.items():
            mine = about.get(model, about) if source == "mitigation" else about
            if source not in names or (source == "mitigation" and model not in about):
                continue
            each, names = mine["questions"], mine.get("settings", SETTINGS)
            counts = each if isinstance(each, dict) else dict.fromkeys(names, each)
            many = ", ".join(f"{count} {name}" for name, count in counts.items())
            draws = mine.get("draws", [mine.get("seed")])
            lines.append(
                f"- [`{source}`](../../benchmarks/results/{source}), `{model}`: {many} questions and "
                f"{mine['captions']} captions{' a draw' if len(draws) > 1 else ''}, scene seed{'s'[: len(draws) - 1]} "
                f"{', '.join(map(str, draws))}; {mine['dtype']}, {machine(mine)}."
            )
    return "\n".join(lines) + "\n"


def prices() -> dict[str, Row]:
    """What runs cost over plain attention, by spec."""
    found: dict[str, Row] = {}
    for name in COSTS:
        for row in read(name)["rows"]:
            found.setdefault(row["run"].replace('"', "'"), row)
    return found


def sections() -> dict[str, str]:
    """Every generated part of the page by its name."""
    costs = prices()
    found = {"conditions": conditions(), "seeds": seeds(read(SEEDS))}
    for model in EXAMS:
        for base in BASES:
            rows, place = gathered(model, base), f"{model.removeprefix('scenes-')} {short(base)}"
            made = {"glance": glance(rows, costs), "details": details(rows), "said": said(rows)}
            found |= {f"{part} {place}": text if rows else "Not measured.\n" for part, text in made.items()}
    return found


def seeds(result: Row) -> str:
    """Each model's adversarial accuracy under every mitigation alone; figures and tests of all answers together."""
    of = {(row["model"], row["strategy"]): row for row in result["rows"] if row["base"] == "none"}
    models = [name for name in dict.fromkeys(name for name, _ in of) if name != POOLED]
    columns = ("yes", "CHAIR_S", "recall", "length")
    head = ["", *(f"`{name}`" for name in models), "together", *columns, "in sum"]
    lines = []
    for row in adjusted([copy.deepcopy(row) for (name, _), row in of.items() if name == POOLED]):
        if "refused" in row:
            lines.append([f"`{row['strategy']}`", *["-"] * (len(head) - 2), "refused"])
            continue
        alone = [_plain(of[name, row["strategy"]]["pope"]["adversarial"]["accuracy"]) for name in models]
        figures = marked(row)
        together = [figures[name] for name in ("accuracy", *columns)]
        lines.append([f"`{row['strategy']}`", *alone, *together, summary(row)])
    first = next(row for (name, _), row in of.items() if name == POOLED)
    asked_of = f"{len(models)} models, {asked(first)[0]} adversarial questions and {asked(first)[1]} captions together."
    return f"{markdown(head, lines)}\n{asked_of}\n"


def short(base: str) -> str:
    """A base as the sections of the page name it."""
    return "alone" if base == "none" else base.split("(")[0]


def _tests(row: Row) -> Iterator[Row]:
    if "against" in row:
        yield from (part["accuracy"] for part in row["against"]["pope"].values())
        yield row["against"]["pope"]["adversarial"]["says_yes"]
        yield row["against"]["chair"]["chair_s"]


def _among(row: Row, found: Sequence[Row]) -> bool:
    return any(row["strategy"] == other["strategy"] for other in found)


def _single(row: Row) -> bool:
    """Whether one mitigation or recipe, and no more, runs on the base."""
    if recipe_in(row["strategy"]) is not None:
        return below(row["strategy"]) == row["base"]
    made, under = parse(row["strategy"]), parse(row["base"])
    return len(made) == len(under) + 1 and made[-1].name in _names()


@cache
def _read(source: str) -> dict[str, Any]:
    """A result, which every base of its model is taken from: `gathered` changes copies of its rows."""
    return read(source)


@cache
def _names() -> frozenset[str]:
    return frozenset(parse(spec)[0].name for spec in mitigations())


def _is_method(row: Row) -> bool:
    return "against" in row and row["base"] != row["strategy"] and _single(row)


def _name(row: Row) -> str:
    base = row["base"]
    return str(row["strategy"] if base in (None, "none", row["strategy"]) else row["strategy"].removeprefix(base + "+"))


def _evidence(row: Row) -> str:
    recipe = recipe_in(row["strategy"])
    if recipe is not None:
        return "text" if recipe == OPERA else recipes()[recipe.split("(")[0]].evidence
    made = parse(row["strategy"])
    return (describe(made[-1].name).evidence or "ours") if made else ""


def _plain(interval: Row | None, digits: int = 3) -> str:
    return "-" if interval is None else f"{interval['value']:.{digits}f}"


def _tested(interval: Row, mark: int) -> str:
    text = _plain(interval)
    return f"**{text}**" if mark > 0 else f"{text} †" if mark < 0 else text


def _moved(interval: Row | None, mark: int, digits: int = 3) -> str:
    return _plain(interval, digits) + {1: " ↑", -1: " ↓"}.get(mark, "")


def _cost(row: Row, costs: dict[str, Row]) -> str:
    if "passes" in row:
        return f"{row['passes']:.2g} passes" if row["passes"] != 1 else "1 pass"
    row = costs.get(_name(row))
    if row is None:
        return "-"
    return f"{row['prefill']['over_plain']['median']:.2f}, {row['token']['over_plain']['median']:.2f}"


PAGE = Page(ROOT / "docs" / "reports" / "mitigation.md", "python benchmarks/mitigation_page.py", sections)

if __name__ == "__main__":
    PAGE.write()
