"""Accuracy of every strategy on the embedded model's held-out scenes: `python benchmarks/scenes.py`.

Writes `benchmarks/results/scenes-llava` and, with `--card`, the table of the model card.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.progress import track  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.common import Clock, conditions, write  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.scenes.evaluation import accuracy  # noqa: E402
from vtokens.scenes.world import NUMBERS  # noqa: E402

SPECS = ("random", "uniform", "cls", "fastv", "todre")
KEEPS = (0.5, 0.25, 0.1, 0.05)
RESULT = Path(__file__).parent / "results" / "scenes-llava"
START, END = "<!-- pruning table: python benchmarks/scenes.py --card -->\n", "<!-- end of the pruning table -->\n"


def cell(model: Any, processor: Any, spec: str, keep: float, questions: dict[int, list[Any]]) -> dict[str, Any]:
    """Accuracy of one strategy at one keep, per kind and over all, pooled over the seeds of the questions.

    `random` draws its patches with the seed of the questions, so that its luck is averaged too.
    """
    right: dict[str, list[list[bool]]] = {}
    counted = {"more": 0, "right": 0, "fewer": 0}
    for seed, examples in questions.items():
        options = {"seed": seed} if spec == "random" else {}
        with vtokens.attach(model, spec, None if spec == "none" else keep, **options) as handle:
            answers = scenes.answer(model, processor, examples)
            tokens = handle.report().samples[0].average_tokens
        for part in right.values():
            part.append([])
        for example, text in zip(examples, answers, strict=True):
            for kind in (example.kind, "overall"):
                right.setdefault(kind, [[]])[-1].append(scenes.score(text, example))
            if example.kind == "count_all" and text in NUMBERS:
                off = NUMBERS.index(text) - NUMBERS.index(example.answer)
                counted["more" if off > 0 else "fewer" if off < 0 else "right"] += 1
    return {
        "strategy": spec,
        "keep": keep,
        "tokens_per_layer": tokens,
        "by_seed": [sum(part) / len(part) for part in right["overall"]],
        "count_all_says": counted,
        "accuracy": {k: vars(accuracy(sum(map(sum, parts)), sum(map(len, parts)))) for k, parts in right.items()},
    }


def card_table(rows: list[dict[str, Any]]) -> str:
    """The overall accuracies as Markdown, a row per strategy and a column per keep."""
    full = next(row for row in rows if row["strategy"] == "none")["accuracy"]["overall"]
    lines = [
        f"No pruning: {_show(full)} (n={full['n']}).",
        "",
        "| strategy | " + " | ".join(f"keep {keep:g}" for keep in KEEPS) + " |",
        "|---|" + "---|" * len(KEEPS),
    ]
    for spec in SPECS:
        shares = [_show(row["accuracy"]["overall"]) for row in rows if row["strategy"] == spec]
        lines.append(f"| `{spec}` | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def _show(part: dict[str, float]) -> str:
    return f"{part['share']:.3f} [{part['low']:.3f}, {part['high']:.3f}]"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-llava")
    parser.add_argument("--questions", type=int, default=330, help="per seed (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--card", action="store_true", help="also rewrite the table of the model card")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = vtokens.load(options.model, strategy="none")
    model.eval()  # type: ignore[no-untyped-call]
    questions = {seed: scenes.examples("test", n=options.questions, seed=seed) for seed in range(options.seeds)}
    cells = [("none", 1.0), *((spec, keep) for spec in SPECS for keep in KEEPS)]
    rows = [cell(model, processor, *each, questions) for each in track(cells, description="asking")]
    about = conditions(torch.device("cpu"), Clock(torch.device("cpu"), 1), model, questions_per_seed=options.questions)
    write(options.output, {"conditions": about, "rows": rows})
    print(card_table(rows))
    if options.card:
        card = scenes.embedded_path(options.model) / "README.md"
        head, rest = card.read_text(encoding="utf-8").split(START)
        card.write_text(head + START + card_table(rows) + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
