"""Writes the tables of docs/reports/testbed.md: `python benchmarks/testbed_page.py`."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import filter_page, hallucination_page  # noqa: E402
from benchmarks.page import Page  # noqa: E402
from benchmarks.tables import RESULTS, interval, markdown, read  # noqa: E402
from vtokens.scenes.train.smol.course import COURSE  # noqa: E402

OPEN = "Not measured yet.\n"
COLUMNS = {
    "existence": ("exist", "pope_random"),
    "adversarial": ("pope_adversarial",),
    "grounding": ("where", "at"),
    "attributes": ("colour_at", "colour_of", "shape_of"),
    "counts": ("count_all", "count_colour", "count_shape"),
    "digits": ("digit",),
    "printed words": ("spell", "sign", "sign_at", "sign_where"),
    "captions": ("caption",),
}
"""The kinds of questions that are one column of the pruning table."""
ASIDE = ("words", "sentences", "photographs")
Row = dict[str, Any]


def answers(result: Row) -> str:
    """Kinds that are asked in several ways: a column a way, and the target."""
    found = {(row["group"], row["kind"]): row for row in result["rows"]}
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in result["rows"] if row["group"] in ASIDE):
        target = found["words", kind].get("target")
        missed = target is not None and found["words", kind]["share"] < target
        said = "" if target is None else f"{target:.2f}" + (" (missed)" if missed else "")
        lines.append([f"`{kind}`", *(interval(found[group, kind]) for group in ASIDE), said])
    return markdown(["kind", *ASIDE, "target, in words"], lines)


def seeds(result: Row) -> str:
    """What all trained seeds answer in words, and say yes to: a column a seed, the one that ships first."""
    others = sorted(RESULTS.glob("testbed-seed*"))
    if not others:
        return OPEN
    runs = [{(row["group"], row["kind"]): row for row in one["rows"]} for one in (result, *map(read, others))]
    lines = []
    for key in [one for one in runs[0] if one[0] in ("words", "negatives")]:
        middle = statistics.median(run[key]["share"] for run in runs)
        lines.append([f"`{key[1]}`", *(interval(run[key]) for run in runs), f"{middle:.3f}"])
    return markdown(["kind", "ships", *(path.name.removeprefix("testbed-") for path in others), "median"], lines)


def harder(result: Row) -> str:
    """Kinds that are asked in one way."""
    rows = [row for row in result["rows"] if row["group"] not in (*ASIDE, "negatives")]
    return markdown(["group", "kind", "right"], [[row["group"], f"`{row['kind']}`", interval(row)] for row in rows])


def negatives(result: Row) -> str:
    """How often 'yes' is said to what is not there."""
    targets = {"pope_random": "at most 0.03", "pope_adversarial": "at least 0.20"}
    rows = [row for row in result["rows"] if row["group"] == "negatives"]
    lines = [[row["kind"].removeprefix("pope_"), interval(row), targets.get(row["kind"], "")] for row in rows]
    return markdown(["negatives", "says yes", "target"], lines)


def training(result: Row) -> str:
    """The last row of each stage."""
    last = {row["stage"]: row for row in result.get("training", [])}
    names = list(dict.fromkeys(name for row in last.values() for name in row))
    return markdown(names, [[str(row.get(name, "")) for name in names] for row in last.values()]) if last else OPEN


def pruning(result: Row) -> str:
    """A row a strategy and keep, kinds pooled into columns."""
    columns = [n for n, kinds in COLUMNS.items() if any(k in row["accuracy"] for row in result["rows"] for k in kinds)]
    told = [name for name in ("chair_i", "recall", "length") if any("chair" in row for row in result["rows"])]
    lines = []
    for row in result["rows"]:
        parts = [[row["accuracy"][k] for k in COLUMNS[name] if k in row["accuracy"]] for name in columns]
        shares = [f"{sum(p['correct'] for p in part) / sum(p['n'] for p in part):.3f}" for part in parts]
        figures = [f"{row['chair'][name]['value']:.3f}" if row["chair"].get(name) else "" for name in told]
        lines.append([f"`{row['strategy']}`", f"{row['keep']:g}", f"{row['tokens_per_layer']:.0f}", *shares, *figures])
    named = {"chair_i": "CHAIR_I", "recall": "recall", "length": "length"}
    return markdown(["strategy", "keep", "tokens", *columns, *(named[name] for name in told)], lines)


def depth(result: Row) -> str:
    """The picture by layer."""
    lines = []
    for row in result["rows"]:
        shares = [f"{row[name]:.2f}" for name in ("first", "text", "picture")]
        sinks = [f"{row['sinks']:.1%}", f"{row['agrees']:.0%}" if "agrees" in row else ""]
        right = f"{row['right_without']:.3f}" if "right_without" in row else ""
        lines.append([str(row["layer"]), *shares, f"{row['phi']:.1f}", *sinks, right])
    head = ["layer", "first token", "other text", "picture", "phi of the first", "visual sinks", "sinks that draw"]
    return markdown([*head, "right without the picture"], lines)


def course() -> str:
    """The stages of the recipe."""
    shown = {"symbols": "symbols", "vectors": "pictures, for the tower alone", "pixels": "pictures"}
    lines = [
        [
            s.name,
            f"{s.steps * s.pictures:,}",
            shown[s.shown],
            "yes" if s.triggered or s.hiding else "",
            "yes" if s.worlds else "",
        ]
        for s in COURSE
    ]
    return markdown(["stage", "pictures", "shown as", "missing partners drilled", "harder worlds"], lines)


def asked(result: Row) -> str:
    """The conditions of a result, in a sentence."""
    about = result["conditions"]
    return f"`{about['command']}`: {about['dtype']}, {hallucination_page.machine(about)}.\n"


def mitigation(result: Row) -> str:
    """POPE and CHAIR of each split."""
    parts = []
    for split in dict.fromkeys(row["split"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["split"] == split]
        parts += [f"On `{split}`:\n", hallucination_page.pope(rows), hallucination_page.chair(rows)]
    return "\n".join(parts)


def filtered(make: Callable[[Row], str]) -> Callable[[Row], str]:
    """A table of docs/reports/filter-scenes.md, of the plain model here."""
    return lambda result: make(
        {n: [r for r in rows if r["strategy"] == "none"] for n, rows in result.items() if n != "conditions"}
    )


SECTIONS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "answers": ("testbed", answers),
    "answers asked": ("testbed", asked),
    "seeds": ("testbed", seeds),
    "harder": ("testbed", harder),
    "negatives": ("testbed", negatives),
    "training": ("testbed", training),
    "depth": ("depth-scenes-smol", depth),
    "depth asked": ("depth-scenes-smol", asked),
    "mitigation": ("hallucination-scenes-smol", mitigation),
    "mitigation asked": ("hallucination-scenes-smol", asked),
    "filter": ("filter-scenes-smol", filtered(lambda setting: filter_page.combined(setting, "test"))),
    "filter signals": ("filter-scenes-smol", filtered(filter_page.signals)),
    "filter guarantees": ("filter-scenes-smol", filtered(filter_page.guarantees)),
    "filter asked": ("filter-scenes-smol", filter_page.conditions),
    "pruning": ("scenes-smol", pruning),
    "pruning asked": ("scenes-smol", asked),
}
"""Every part of the page that a result is made into: which, and by what."""


def _of(source: str, make: Callable[[Row], str]) -> str:
    return make(read(source)) if (RESULTS / source).is_dir() else OPEN


PAGE = Page(
    ROOT / "docs" / "reports" / "testbed.md",
    "python benchmarks/testbed_page.py",
    {"course": course, **{name: partial(_of, *part) for name, part in SECTIONS.items()}},
)

if __name__ == "__main__":
    PAGE.write()
