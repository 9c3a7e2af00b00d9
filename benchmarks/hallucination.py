"""POPE and CHAIR on scenes, for attention strategies alone and on pruners. See docs/reports/hallucination-scenes.md.

python benchmarks/hallucination.py           # everything, one thread; prints how far it is
python benchmarks/hallucination.py --quick   # a few questions, to see that it runs
python benchmarks/hallucination.py --bases none "cls(keep=0.25)" --extras var --alone --splits test
python benchmarks/hallucination.py --model scenes-smol --dtype bfloat16 --settings random adversarial --splits test

Every base is measured, and every extra on top of every base; a cell is compared with its base on the same questions.
Replies are kept in `--replies` batch by batch, and a second run goes on from there; delete that folder when a
strategy's code has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.progress import track  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.asking import ask, journal_at, loaded  # noqa: E402
from benchmarks.common import Clock, conditions, write  # noqa: E402
from benchmarks.hallucination_rows import adjust_together, make_row  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.eval.hallucination import SETTINGS, exam  # noqa: E402

BASES = ("none", "cls(keep=0.25)", "fastv(keep=0.25)", "todre(keep=0.25)")
EXTRAS = ("var", "vhr", "var+vhr")
ALONE = ("vhr(divergence='two_branch')", "dymu")
SPLITS = ("test", "decorrelated", "partner-removed")
UNSAID = {"settings": list(SETTINGS), "dtype": "float32", "longest": None}
"""Conditions that replies which were kept before there was a choice do not name."""
RESULTS = ROOT / "benchmarks" / "results"


def replies(
    model: Any, processor: Any, spec: str, asked: list[scenes.Example], batch_size: int, **more: Any
) -> dict[str, Any]:
    """What the model answers under `spec`, the visual tokens a layer sees on average, and CPU seconds."""
    found = ask(model, processor, spec, asked, batch_size, **more)
    return {"texts": found.texts, "tokens": sum(found.tokens) / len(found.tokens), "seconds": found.seconds}


def remembered(folder: Path, identity: dict[str, Any], run: Any) -> dict[str, Any]:
    """What `run()` gave when it was last asked under this identity, or gives now; written at once or not at all."""
    path = folder / f"{quote(identity['spec'], safe='()+=.,')}@{identity['split']}.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["identity"] == identity:
            return dict(found["result"])
    result = run()
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"identity": identity, "result": result}, indent=1), encoding="utf-8")
    partial.replace(path)
    return dict(result)


def cells(options: argparse.Namespace) -> list[tuple[str, str | None]]:
    """(spec, the spec it is compared with) in the order of the tables."""
    found: list[tuple[str, str | None]] = []
    for base in options.bases:
        found.append((base, None if base == "none" else "none"))
        found += [(extra if base == "none" else f"{base}+{extra}", base) for extra in options.extras]
    found += [(spec, "none") for spec in options.alone]
    return [(spec, base if base in options.bases else None) for spec, base in found]


def main() -> None:
    """Ask, grade, compare, write."""
    options = _options()
    torch.set_num_threads(1)
    model, processor, weights = loaded(options.model, options.dtype)
    size = {"questions": options.questions, "captions": options.captions, "seed": options.seed}
    more = {"settings": options.settings, "dtype": options.dtype, "longest": options.longest}
    more = {} if more == UNSAID else more
    clock = Clock(torch.device("cpu"), 1)
    about = conditions(torch.device("cpu"), clock, model, weights=weights, **size, settings=options.settings)
    for spec, _ in cells(options):
        vtokens.attach(model, spec).detach()  # what cannot run says so before anything is asked
    rows = []
    for split in options.splits:
        drawn, told = exam(split, **size), dict[str, list[str]]()
        asked = [e for e in drawn if e.kind == "caption" or e.kind.removeprefix("pope_") in options.settings]
        of_split = []
        for spec, base in track(cells(options), description=split):
            identity = {"spec": spec, "split": split, **size, **more, "weights": weights, "versions": about["versions"]}
            journal = journal_at(options.replies, **identity, batch=options.batch_size)
            batches = {"batch_size": options.batch_size, "journal": journal, "longest": options.longest}
            given = remembered(
                options.replies, identity, lambda s=spec, a=asked, b=batches: replies(model, processor, s, a, **b)
            )
            journal.unlink(missing_ok=True)
            told[spec] = given["texts"]
            row = make_row(asked, given["texts"], told[base] if base else None)
            measured = {"tokens": given["tokens"], "cpu_seconds": round(given["seconds"], 1)}
            of_split.append({"strategy": spec, "base": base, "split": split, **measured, **row})
        rows += adjust_together(of_split)
    seconds = sum(row["cpu_seconds"] for row in rows)
    write(options.output, {"conditions": {**about, "cpu_seconds": round(seconds)}, "rows": rows})
    print(f"{len(rows)} cells, {seconds / 60:.1f} CPU minutes of answering; written to {options.output}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-llava")
    parser.add_argument("--bases", nargs="*", default=list(BASES), metavar="SPEC")
    parser.add_argument("--extras", nargs="*", default=list(EXTRAS), metavar="SPEC", help="each on top of each base")
    parser.add_argument("--alone", nargs="*", default=list(ALONE), metavar="SPEC", help="compared with none")
    parser.add_argument("--splits", nargs="+", default=list(SPLITS))
    parser.add_argument("--questions", type=int, default=1000, help="yes/no, per setting and split (%(default)s)")
    parser.add_argument("--captions", type=int, default=500, help="per split (%(default)s)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="of POPE (all three)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(%(default)s)")
    parser.add_argument("--longest", type=int, help="tokens of an answer at most, for captions that never end")
    parser.add_argument("--seed", type=int, default=100, help="of the scenes (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--replies", type=Path, default=ROOT / "runs" / "hallucination", help="kept here (%(default)s)")
    parser.add_argument("--output", type=Path, help="by default a folder under benchmarks/results that names the model")
    parser.add_argument("--quick", action="store_true", help="40 questions and 20 captions; write nothing tracked")
    options = parser.parse_args()
    known = {"scenes-llava": "hallucination-scenes"}
    options.output = options.output or RESULTS / known.get(options.model, f"hallucination-{options.model}")
    if options.quick:
        options.questions, options.captions = 40, 20
        options.output = options.replies / "quick"
    return options


if __name__ == "__main__":
    main()
