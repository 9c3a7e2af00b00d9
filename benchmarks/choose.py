"""Which pruner `auto` stands for, by family, task and budget, from what was measured: `python benchmarks/choose.py`.

Reads the tables under benchmarks/results that `SOURCES` names and writes vtokens/tables/choices/choices.json. For each
family, task and keep the first source that asked such questions counts, so that only answers to the same questions are
compared. Of the pruners that leave no more tokens a layer than random pruning does at that keep (and a tenth), those
whose 95% interval reaches the best share of right answers cannot be told from the best; of these the one is chosen
that answers most of all questions, then most of the task's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.tables import RESULTS, read  # noqa: E402
from vtokens.core.writing import write_text  # noqa: E402
from vtokens.eval.metrics.intervals import wilson  # noqa: E402
from vtokens.tables.choices import SCHEMA, TASKS, Chosen  # noqa: E402

TABLE = ROOT / "vtokens" / "tables" / "choices" / "choices.json"
KINDS = {
    "ocr": ("digit",),
    "grounding": ("where", "at"),
    "counting": ("count_all", "count_colour", "count_shape"),
    "caption": ("caption",),
    "yes_no": ("exist",),
    "general": ("overall",),
}
"""Task -> the kinds of questions that ask for it."""
BOARD = {"ocr": "digits", "grounding": "where", "counting": "counting", "yes_no": "pope", "general": "all"}
"""Task -> its column of a leaderboard."""


@dataclass(frozen=True)
class Source:
    """A result with a row for each pruner and keep.

    Attributes:
        folder, rows: under benchmarks/results, and the table there.
        family, model: what was measured.
        tasks: task -> the parts of `accuracy` that are counted together.
        split: the rows that count, where there are several splits.
    """

    folder: str
    rows: str
    family: str
    model: str
    tasks: Mapping[str, Sequence[str]]
    split: str | None = None


SOURCES = (
    Source("leaderboard-scenes-llava", "rows", "llava", "scenes-llava", {t: (c,) for t, c in BOARD.items()}),
    Source("census-compare", "rows", "llava", "scenes-llava", {"general": ("",)}, "test"),
    Source("scenes-llava", "rows", "llava", "scenes-llava", KINDS),
    Source("leaderboard-scenes-qwen", "rows", "qwen2_5_vl", "scenes-qwen", {t: (c,) for t, c in BOARD.items()}),
    Source("clips-pruning", "accuracy", "qwen2_5_vl", "scenes-qwen", {"video": ("overall",)}),
)
"""What is read, the first of those that asked for a task first."""


@dataclass(frozen=True)
class Row:
    """A pruner at a keep: right answers of a task, and the share of all questions."""

    strategy: str
    keep: float
    tokens: float | None
    n: int
    interval: tuple[float, float, float]
    overall: float


def rows(source: Source, task: str, found: Mapping[str, Any]) -> Iterator[Row]:
    """The pruners of a result, with what they answered of a task's questions."""
    for row in found[source.rows]:
        if row["strategy"] == "none" or row.get("split") != source.split:
            continue
        accuracy = row.get("accuracy", row)
        parts = [accuracy if not name else accuracy.get(name) for name in source.tasks[task]]
        if not all(parts):
            continue
        whole = accuracy if source.split else accuracy.get("all") or accuracy["overall"]
        n, tokens = sum(part["n"] for part in parts), row.get("tokens_per_layer")
        yield Row(row["strategy"], row["keep"], tokens, n, _interval(parts), _share(whole))


def _interval(parts: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """The share of several kinds of questions together, and its 95% interval: Wilson's, or that of a kind alone."""
    if len(parts) == 1:
        return _share(parts[0]), parts[0]["low"], parts[0]["high"]
    right, n = sum(round(_share(part) * part["n"]) for part in parts), sum(part["n"] for part in parts)
    found = wilson(right, n)
    return found.value, found.low, found.high


def _share(part: Mapping[str, Any]) -> float:
    return float(part["share"] if "share" in part else part["value"])


def best(source: Source, task: str, keep: float, there: Sequence[Row]) -> Chosen | None:
    """The choice among pruners at one keep; None without random pruning to compare with."""
    floor = next((row for row in there if row.strategy == "random"), None)
    if floor is None:
        return None
    fair = [row for row in there if None in (row.tokens, floor.tokens) or row.tokens <= 1.1 * floor.tokens]  # type: ignore[operator]
    most = max(row.interval[0] for row in fair)
    level = [row for row in fair if row.interval[2] >= most]
    first = min(level, key=lambda row: (-row.overall, -row.interval[0], row.strategy))
    share, low, high = (round(part, 4) for part in first.interval)
    chance = round(floor.interval[0], 4)
    return Chosen(
        source.family, task, keep, first.strategy, share, low, high, first.n, chance, low > chance, source.model,
        source.folder,
    )  # fmt: skip


def table(results: Path = RESULTS, sources: Sequence[Source] = SOURCES) -> list[Chosen]:
    """All choices, by family, task and falling keep."""
    found: dict[tuple[str, str, float], Chosen] = {}
    for source in sources:
        if not (results / source.folder).is_dir():
            continue
        measured = read(results / source.folder)
        for task in source.tasks:
            there = list(rows(source, task, measured))
            for keep in {row.keep for row in there}:
                choice = best(source, task, keep, [row for row in there if row.keep == keep])
                if choice is not None:
                    found.setdefault((source.family, task, keep), choice)
    return sorted(found.values(), key=lambda one: (one.family, TASKS.index(one.task), -one.keep))


def text(choices: Sequence[Chosen]) -> str:
    """The file, a line for each choice."""
    lines = ",\n".join(f"    {json.dumps(asdict(one))}" for one in choices)
    return f'{{\n  "schema": {SCHEMA},\n  "choices": [\n{lines}\n  ]\n}}\n'


def main() -> None:
    """Write the table, and print what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=TABLE, help="(%(default)s)")
    options = parser.parse_args()
    choices = table()
    write_text(options.output, text(choices))
    for one in choices:
        print(f"{one.family:<12} {one.task:<10} {one.keep:<5g} {one.spec:<16} {one}")


if __name__ == "__main__":
    main()
