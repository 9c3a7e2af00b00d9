"""Every mitigation, and every recipe, alone and behind pruners, on both models of scenes: docs/reports/mitigation.md.

python benchmarks/mitigation.py ask scenes-llava                                      # one thread; goes on where it was
python benchmarks/mitigation.py ask scenes-smol --bases none "cls(keep=0.25)" --draws 100
python benchmarks/mitigation.py ask scenes-llava --extras crop dyfo opera             # these alone, and their bases
python benchmarks/mitigation.py write          # the tables, of what has been asked so far
python benchmarks/mitigation.py ask runs/seed1/scenes-llava   # another seed of that recipe
python benchmarks/mitigation.py write --pooled scenes-llava runs/seed1/scenes-llava --output FOLDER

A recipe asks one question at a time and reads several prompts for it. Replies are kept in `--replies` cell by cell and
batch by batch, and count for the exam they are of; delete that folder when a strategy's code has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.asking import ask, called, journal_at, loaded  # noqa: E402
from benchmarks.common import Clock, conditions, write  # noqa: E402
from benchmarks.mitigation_recipes import asker, below, recipe_in  # noqa: E402
from benchmarks.mitigation_rows import BASES, POOLED, specs_on, table  # noqa: E402
from vtokens import scenes  # noqa: E402

DRAWS = (100, 101, 102)


@dataclass(frozen=True)
class Plan:
    """What one model is asked in each draw of scenes."""

    dtype: str
    questions: tuple[tuple[str, int], ...]
    captions: int
    batch: int
    longest: int | None

    def exam(self, draw: int) -> list[scenes.Example]:
        """The questions by setting, then the captions, of the test split; every one about a scene of its own."""
        numbers = [*((f"pope_{name}", n) for name, n in self.questions), ("caption", self.captions)]
        return [e for kind, n in numbers for e in scenes.examples("test", n=n, seed=draw, kinds=[kind])]

    def fits(self, cell: dict[str, Any]) -> bool:
        """Whether a cell is of this exam: a plan may have changed since it was asked."""
        size = sum(n for _, n in self.questions) + self.captions
        return cell.get("plan", repr(self)) == repr(self) and len(cell.get("texts", range(size))) == size


PLANS = {
    "scenes-llava": Plan("float32", (("random", 50), ("popular", 50), ("adversarial", 100)), 60, 50, None),
    "scenes-smol": Plan("bfloat16", (("adversarial", 60),), 20, 40, 64),
}
BESIDE = 4
"""Questions of a recipe that are kept at a time."""


def plan_of(model: str) -> Plan:
    """A folder is asked what scenes-llava is: another seed of its recipe."""
    return PLANS.get(model, PLANS["scenes-llava"])


def kept_at(replies: Path, model: str, draw: int, spec: str) -> Path:
    """Where the replies of a cell are kept."""
    return replies / quote(model, safe="") / str(draw) / f"{quote(spec, safe='()+=.,')}.json"


def asked(replies: Path, model: str, weights: str | None = None) -> dict[str, dict[int, dict[str, Any]]]:
    """Every cell of the model's exam that has been asked, by spec and draw.

    Raises:
        ValueError: cells are not all of the same weights, or not of these.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted((replies / quote(model, safe="")).glob("*/*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        if plan_of(model).fits(cell):
            found.setdefault(cell["spec"], {})[cell["draw"]] = cell
    of = {cell.get("about", {}).get("weights") for draws in found.values() for cell in draws.values()}
    if len(of | ({weights} if weights else set())) > 1:
        raise ValueError(f"replies of {model} in {replies} are of other weights than these: delete them")
    return found


def tabulate(options: argparse.Namespace) -> None:
    """Write benchmarks/results/mitigation, of the draws in which all of a table has been asked."""
    about, rows = dict[str, Any](), []
    together: dict[str, dict[str, dict[str, Any]]] = {}
    papers: dict[str, list[scenes.Example]] = {}
    for model, name in called(options.pooled or [*PLANS]).items():
        plan, cells = plan_of(model), asked(options.replies, model)
        exams = {draw: plan.exam(draw) for draw in sorted({draw for found in cells.values() for draw in found})}
        papers |= {f"{name} {draw}": exam for draw, exam in exams.items()}
        for spec, draws in cells.items():
            together.setdefault(spec, {}).update({f"{name} {draw}": cell for draw, cell in draws.items()})
        for base in BASES:
            rows += [{"model": name, **row} for row in table(specs_on(base), base, cells, exams)]
        if cells:
            # Cells are asked over time: the record is the newest cell's, and says since when the others were asked.
            made = sorted(
                (cell["about"] for draws in cells.values() for cell in draws.values()), key=lambda a: a["date"]
            )
            about[name] = made[-1] | {"since": made[0]["date"]}
            about[name] |= {"questions": dict(plan.questions), "captions": plan.captions, "draws": sorted(exams)}
            about[name]["load_average"] = {}
    for base in BASES if options.pooled else ():
        rows += [{"model": POOLED, **row} for row in table(specs_on(base), base, together, papers)]
    write(options.output, {"conditions": {**about, "load_average": {}}, "rows": rows})
    print(f"{len(rows)} rows; written to {options.output}")


def measure(options: argparse.Namespace) -> None:
    """Ask what has not been asked yet, draw by draw and base by base; a refusal is an outcome as well."""
    torch.set_num_threads(1)
    plan = plan_of(options.model)
    model, processor, weights = loaded(options.model, plan.dtype)
    about = conditions(torch.device("cpu"), Clock(torch.device("cpu"), 1), model, draws=options.draws, weights=weights)
    for base in options.bases:
        for draw in options.draws:
            exam = plan.exam(draw)
            known = asked(options.replies, options.model, weights)
            for spec in specs_on(base, options.extras):
                if draw not in known.get(spec, {}):
                    path = kept_at(options.replies, options.model, draw, spec)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    found = _cell(model, processor, spec, exam, plan, path.parent)
                    content = {"draw": draw, "spec": spec, "base": base, "plan": repr(plan), "about": about, **found}
                    partial = path.with_suffix(".partial")
                    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
                    partial.replace(path)
                    print(draw, spec, found.get("seconds") or found["refused"], flush=True)


def _cell(
    model: Any, processor: Any, spec: str, exam: list[scenes.Example], plan: Plan, folder: Path
) -> dict[str, Any]:
    attached, recipe = below(spec), recipe_in(spec)
    batch, again = plan.batch, None
    try:
        vtokens.attach(model, attached).detach()
        if recipe is not None:
            batch, again = BESIDE, asker(model, processor, recipe, folder.parent / "album", plan.longest)
            with vtokens.attach(model, attached):
                again(exam[0])
    except ValueError as error:
        return {"refused": str(error)}
    journal = journal_at(folder, spec=spec, plan=repr(plan))
    found = ask(model, processor, attached, exam, batch, journal=journal, longest=plan.longest, again=again)
    journal.unlink()
    mean = sum(found.tokens) / len(found.tokens)
    passes = {} if recipe is None else {"passes": found.figures["passes"]}
    return {"texts": found.texts, "tokens": mean, "seconds": round(found.seconds, 1), **passes}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=Path, default=ROOT / "runs" / "mitigation", help="kept here (%(default)s)")
    parts = parser.add_subparsers(dest="part", required=True)
    asking = parts.add_parser("ask")
    asking.add_argument("model", help=f"{' or '.join(PLANS)}, or the folder of another seed of the first")
    asking.add_argument("--bases", nargs="+", default=list(BASES), metavar="SPEC")
    asking.add_argument(
        "--extras", nargs="*", metavar="SPEC", help="by default all mitigations and recipes of the registries"
    )
    asking.add_argument("--draws", nargs="+", type=int, default=list(DRAWS))
    writing = parts.add_parser("write")
    writing.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "mitigation")
    writing.add_argument("--pooled", nargs="+", metavar="MODEL", help="these, and all of their answers together")
    return parser.parse_args()


if __name__ == "__main__":
    given = _options()
    (measure if given.part == "ask" else tabulate)(given)
