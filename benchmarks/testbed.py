"""What scenes-smol answers, beside its targets, and how its training went. See docs/reports/testbed.md.

python benchmarks/testbed.py                      # 300 examples a figure of the model that ships, one thread
python benchmarks/testbed.py --run runs/seed0     # the stages of its training too, from the folder of the recipe
python benchmarks/testbed.py --adapter runs/seed1/adapter.safetensors --output benchmarks/results/testbed-seed1
python benchmarks/testbed.py --each 2 --output runs/quick

Answers are kept in `--replies` batch by batch, and a second run goes on from there.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.progress import track  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.asking import ask, journal_at  # noqa: E402
from benchmarks.common import Clock, conditions, write  # noqa: E402
from benchmarks.tables import read  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.eval.metrics import yes_no  # noqa: E402
from vtokens.scenes import COMPARE, HARDER, KINDS, POPE, READING, STORIES  # noqa: E402
from vtokens.scenes.evaluation import accuracy  # noqa: E402
from vtokens.scenes.smol.folder import digest, smol_folder  # noqa: E402
from vtokens.scenes.train.smol.report import TARGETS  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "testbed"
GROUPS: dict[str, tuple[Sequence[str], dict[str, Any]]] = {
    "words": (KINDS, {}),
    "sentences": (KINDS, {"seed": 1, "sentences": True}),
    "photographs": (KINDS, {"world": "photographs"}),
    "printed words": (READING, {"world": "signs"}),
    "two pictures": (COMPARE, {}),
    "relations": (HARDER, {}),
    "stories": (STORIES, {}),
    "negatives": (POPE, {"seed": 2}),
}
"""What is asked together: kinds, and how their examples are drawn."""
DRAWS = (0, 1, 2)
"""The seeds of these examples."""


def rows_of(group: str, asked: Sequence[scenes.Example], texts: Sequence[str]) -> list[dict[str, Any]]:
    """A row a kind: the share of right answers, and of negatives the share to which 'yes' is said."""
    found = []
    for kind in GROUPS[group][0]:
        pairs = [(e, text) for e, text in zip(asked, texts, strict=True) if e.kind == kind]
        if group == "negatives":
            hits = [yes_no(text) is True for e, text in pairs if e.answer == "no"]
        else:
            hits = [scenes.score(text, e) for e, text in pairs]
        share = asdict(accuracy(sum(hits), len(hits)))
        found.append({"group": group, "kind": kind, "target": TARGETS.get(kind) if group == "words" else None, **share})
    return found


def training(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's validation.csv."""
    with (run / "validation.csv").open(encoding="utf-8", newline="") as file:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def main() -> None:
    """Ask, count, write."""
    options = _options()
    torch.set_num_threads(1)
    folder = smol_folder(options.adapter)
    model, processor = vtokens.load(folder, strategy="none", dtype=getattr(torch, options.dtype))
    model.eval()  # type: ignore[no-untyped-call]
    weights = digest(folder / "model.safetensors")
    clock = Clock(torch.device("cpu"), 1)
    about = conditions(
        torch.device("cpu"), clock, model, draws=DRAWS, weights=weights, each=options.each, longest=options.longest
    )
    kept = {"dtype": options.dtype, "weights": weights, "versions": about["versions"], "longest": options.longest}
    rows, seconds = [], 0.0
    for group in track(options.groups, description="asking"):
        kinds, drawn = GROUPS[group]
        asked = scenes.examples("test", n=options.each * len(kinds), kinds=kinds, **drawn)
        asked = sorted(asked, key=lambda example: example.kind)  # a batch runs until its longest answer ends
        journal = journal_at(options.replies, group=group, each=options.each, **kept)
        found = ask(model, processor, "none", asked, journal=journal, longest=options.longest)
        rows, seconds = rows + rows_of(group, asked, found.texts), seconds + found.seconds
    result = {"conditions": {**about, "cpu_seconds": round(seconds)}, "rows": rows}
    if options.run:
        result["training"] = training(options.run)
    elif (options.output / "training.csv").exists():
        result["training"] = read(options.output)["training"]
    write(options.output, result)
    print(f"{seconds / 60:.1f} CPU minutes of answering; written to {options.output}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=300, help="examples of a kind (%(default)s)")
    parser.add_argument("--groups", nargs="+", choices=tuple(GROUPS), default=list(GROUPS), help="(all)")
    parser.add_argument("--run", type=Path, help="the folder that the recipe trained in")
    parser.add_argument("--adapter", type=Path, help="what a run of the recipe left; by default what ships")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="(%(default)s)")
    parser.add_argument("--longest", type=int, default=160, help="tokens of an answer at most (%(default)s)")
    parser.add_argument("--replies", type=Path, default=ROOT / "runs" / "testbed", help="kept here (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT)
    options: argparse.Namespace = parser.parse_args()
    return options


if __name__ == "__main__":
    main()
