"""Accuracy of every strategy on the embedded models' held-out scenes: `python benchmarks/scenes.py`.

Writes `benchmarks/results/scenes-llava` and, with `--card`, the table of the model card.

python benchmarks/scenes.py --model scenes-smol --dtype bfloat16 --longest 64 --questions 1100 --seeds 3 \
    --kinds pope_random pope_adversarial where at colour_of count_all count_colour digit caption --signs sign_at spell

Answers are kept in `--replies` batch by batch, and a second run goes on from there; delete that folder when a
strategy's code has changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.progress import track  # noqa: E402

from benchmarks.asking import ask, journal_at, loaded  # noqa: E402
from benchmarks.common import Clock, conditions, write  # noqa: E402
from benchmarks.page import Page  # noqa: E402
from benchmarks.tables import interval  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.eval.hallucination import grade  # noqa: E402
from vtokens.scenes.evaluation import accuracy  # noqa: E402
from vtokens.scenes.world import NUMBERS  # noqa: E402

SPECS = ("random", "uniform", "cls", "fastv", "todre")
KEEPS = (0.5, 0.25, 0.1, 0.05)
RESULTS = Path(__file__).parent / "results"
RESULT = RESULTS / "scenes-llava"


def drawn(seed: int, questions: int, kinds: Sequence[str], signs: Sequence[str]) -> list[scenes.Example]:
    """Questions of the test split, as many of each kind, those about printed words on scenes that have some.

    Sorted by kind: a batch runs until its longest answer ends.
    """
    each = questions // (len(kinds) + len(signs))
    found = scenes.examples("test", n=each * len(kinds), seed=seed, kinds=kinds) if kinds else []
    if signs:
        found += scenes.examples("test", n=each * len(signs), seed=seed, kinds=signs, world="signs")
    return sorted(found, key=lambda example: example.kind)


def cell(
    model: Any, processor: Any, spec: str, keep: float, questions: dict[int, list[Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """Accuracy of one strategy at one keep, per kind and over all, pooled over the seeds of the questions; CHAIR, with
    recall and length, where captions are among them.

    `random` draws its patches with the seed of the questions, so that its luck is averaged too.
    """
    right: dict[str, list[list[bool]]] = {}
    counted = {"more": 0, "right": 0, "fewer": 0}
    captions: list[tuple[Any, str]] = []
    tokens, seconds = list[float](), 0.0
    for seed, examples in questions.items():
        fields = {"seed": seed} if spec == "random" else {}
        about = {"spec": spec, "keep": keep, "seed": seed, **options.about}
        found = ask(
            model, processor, spec, examples, options.batch_size, keep=None if spec == "none" else keep,
            journal=journal_at(options.replies, **about), longest=options.longest, **fields,
        )  # fmt: skip
        tokens, seconds = tokens + found.tokens, seconds + found.seconds
        for part in right.values():
            part.append([])
        for example, text in zip(examples, found.texts, strict=True):
            for kind in (example.kind, "overall"):
                right.setdefault(kind, [[]])[-1].append(scenes.score(text, example))
            if example.kind == "count_all" and text in NUMBERS:
                off = NUMBERS.index(text) - NUMBERS.index(example.answer)
                counted["more" if off > 0 else "fewer" if off < 0 else "right"] += 1
            if example.kind == "caption":
                captions.append((example, text))
    graded = grade(*map(list, zip(*captions, strict=True))).chair if captions else None
    return {
        "strategy": spec,
        "keep": keep,
        "tokens_per_layer": sum(tokens) / len(tokens),
        "cpu_seconds": round(seconds, 1),
        "by_seed": [sum(part) / len(part) for part in right["overall"]],
        "count_all_says": counted,
        "accuracy": {k: vars(accuracy(sum(map(sum, parts)), sum(map(len, parts)))) for k, parts in right.items()},
        **({"chair": asdict(graded)} if graded else {}),
    }


def card_table(rows: list[dict[str, Any]], specs: Sequence[str] = SPECS, keeps: Sequence[float] = KEEPS) -> str:
    """The overall accuracies as Markdown, a row per strategy and a column per keep."""
    full = next(row for row in rows if row["strategy"] == "none")["accuracy"]["overall"]
    lines = [
        f"No pruning: {interval(full)} (n={full['n']}).",
        "",
        "| strategy | " + " | ".join(f"keep {keep:g}" for keep in keeps) + " |",
        "|---|" + "---|" * len(keeps),
    ]
    for spec in specs:
        shares = [interval(row["accuracy"]["overall"]) for row in rows if row["strategy"] == spec]
        lines.append(f"| `{spec}` | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def card(model: str, rows: list[dict[str, Any]], *of: Any) -> Page:
    """The card of an embedded model, with the table of a result's rows."""
    path = scenes.embedded_path(model) / "README.md"
    return Page(path, "python benchmarks/scenes.py --card", {"pruning table": lambda: card_table(rows, *of)})


def main() -> None:
    """Measure, print, write."""
    options = _options()
    torch.set_num_threads(1)
    model, processor, weights = loaded(options.model, options.dtype)
    questions = {seed: drawn(seed, options.questions, options.kinds, options.signs) for seed in range(options.seeds)}
    cells = [("none", 1.0), *((spec, keep) for spec in options.specs for keep in options.keeps)]
    asked = {"questions_per_seed": options.questions, "kinds": options.kinds, "signs": options.signs}
    about = conditions(
        model.device, Clock(model.device, 1), model, **asked, seeds=options.seeds, longest=options.longest
    )
    kept = {"dtype": options.dtype, "batch": options.batch_size, "longest": options.longest}
    options.about = {**asked, **kept, "weights": weights, "versions": about["versions"]}
    rows = [cell(model, processor, *each, questions, options) for each in track(cells, description="asking")]
    write(options.output or RESULTS / Path(options.model).name, {"conditions": about, "rows": rows})
    print(card_table(rows, options.specs, options.keeps))
    if options.card:
        card(options.model, rows, options.specs, options.keeps).write()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-llava", help="an embedded model (%(default)s)")
    parser.add_argument("--specs", nargs="*", default=list(SPECS), metavar="SPEC")
    parser.add_argument("--keeps", nargs="+", type=float, default=list(KEEPS), metavar="SHARE")
    parser.add_argument("--kinds", nargs="*", default=list(scenes.KINDS), metavar="KIND")
    parser.add_argument("--signs", nargs="*", default=[], metavar="KIND", help="kinds asked where words are printed")
    parser.add_argument("--questions", type=int, default=330, help="per seed, over all kinds (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(%(default)s)")
    parser.add_argument("--longest", type=int, help="tokens of an answer at most, for captions that never end")
    parser.add_argument("--batch-size", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--replies", type=Path, default=ROOT / "runs" / "scenes", help="kept here (%(default)s)")
    parser.add_argument("--card", action="store_true", help="also rewrite the table of the model card")
    parser.add_argument("--output", type=Path, help="by default a folder under benchmarks/results that names the model")
    options: argparse.Namespace = parser.parse_args()
    return options


if __name__ == "__main__":
    main()
