"""The filters that ship with scenes-llava, and how right their probabilities are by kind of mention.

python benchmarks/filter_kinds.py                      # the strategies' defaults, one thread; goes on where it stopped
python benchmarks/filter_kinds.py --quick              # few responses, to see that it runs

Responses are captions, POPE's questions and every other question about scenes, the model's own and, to fit on, given
ones with errors put in. Estimators are fitted on the train split, links and thresholds on two halves of the calibration
split, figures are of the test split; each response is about a scene of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.common import Clock, conditions, write  # noqa: E402
from benchmarks.filter_figures import Table, by_image  # noqa: E402
from benchmarks.filter_records import ASKED, DRAWS, collect  # noqa: E402
from benchmarks.tables import read  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.eval.detectors import figures as detector  # noqa: E402
from vtokens.filter import saved  # noqa: E402
from vtokens.filter.calibrators.calibrator import Calibrator  # noqa: E402
from vtokens.filter.calibrators.fitting import kinds_of  # noqa: E402
from vtokens.filter.gate import KINDS, Gate, kind_of  # noqa: E402
from vtokens.filter.guarantees.calibration import Calibration, pooled  # noqa: E402
from vtokens.filter.guarantees.risk import Risk  # noqa: E402
from vtokens.filter.signals import get_signals  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "filter-kinds"
MODEL = "scenes-llava"
SPECS = ("none", "todre(keep=0.1)", "cls(keep=0.25)", "fastv(keep=0.25)", "census(keep=0.25)")
OWN = ("caption", *scenes.POPE, *ASKED)
ERRORS = ("given_caption", "given_pope_random", *(f"given_{kind}" for kind in ASKED))
SIZES = {
    "train": ("train", OWN, (1600, *[300] * 3, *[150] * len(ASKED))),
    "given": ("train", ERRORS, (600, 300, *[60] * len(ASKED))),
    "calibration": ("calibration", OWN, (700, *[150] * 3, *[60] * len(ASKED))),
    "test": ("test", OWN, (500, *[120] * 3, *[80] * len(ASKED))),
}
ALPHAS = (0.2, 0.1, 0.05, 0.02)


def figures(fitted: Calibrator, records: list[Any], resamples: int) -> list[dict[str, Any]]:
    """ECE and AUROC of each kind of mention, with intervals by image."""
    table, kinds = Table.of(records), np.array(kinds_of(records))
    p = fitted.predict(table.signals, kinds.tolist())
    rows = []
    for kind in ("all", *sorted(set(kinds.tolist()))):
        here = np.ones(len(p), dtype=bool) if kind == "all" else kinds == kind
        images = table.images[here].tolist()
        found = detector.figures(kind, p[here], table.labels[here], images, threshold=None, resamples=resamples)
        row: dict[str, Any] = {"kind": kind, "mentions": found.n, "unsupported": found.positives}
        row["mean_p"] = round(float(p[here].mean()), 4)
        for name, value in (("ece", found.ece), ("auroc", found.auroc)):
            if value is not None:
                row |= {
                    name: round(value.value, 4),
                    f"{name}_low": round(value.low, 4),
                    f"{name}_high": round(value.high, 4),
                }
        rows.append(row)
    return rows


def risks(calibration: Calibration, fitted: Calibrator, records: list[Any]) -> list[dict[str, Any]]:
    """What a risk for "redact" costs on other responses: unsupported mentions that are left, supported ones kept."""
    rows = []
    for alpha in ALPHAS:
        found = calibration.certificate(Risk("any", alpha, 0.1), "redact")
        row: dict[str, Any] = {"alpha": alpha, "infeasible": found.infeasible}
        left, kept, right, had = 0, 0, 0, 0
        for record in records:
            scores = fitted.score(record.signals) if record.mentions else np.zeros(0)
            labels = np.array(record.labels, dtype=bool)
            stays = found.keeps(pooled(scores.tolist(), [mention.sentence for mention in record.mentions], "sentence"))
            left += bool((labels & stays).any())
            had += bool(labels.any())
            kept += int((~labels & stays).sum())
            right += int((~labels).sum())
        rows.append(
            row | {"responses": len(records), "wrong_before": had, "wrong_after": left, "kept": round(kept / right, 4)}
        )
    return rows


def gates(calibration: list[Any], records: list[Any], misses: float = 0.05) -> list[dict[str, Any]]:
    """What a gate fitted on other responses lets through, and misses, by kind of prompt."""
    gate, rows = Gate.fit(calibration, misses), []
    for kind in KINDS:
        here = [record for record in records if kind_of(record.prompt) == kind]
        through = [gate.passes(record.prompt, record.meta["entropy"]) for record in here]
        wrong = [any(record.labels) for record in here]
        rows.append(
            {
                "kind": kind, "answers": len(here), "wrong": sum(wrong), "most": round(gate.most.get(kind, -1.0), 6),
                "through": sum(through), "missed": sum(a and b for a, b in zip(through, wrong, strict=True)),
            }
        )  # fmt: skip
    return rows


def main() -> None:
    """Ask, fit, write the filters, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--specs", nargs="+", default=list(SPECS))
    parser.add_argument("--records", type=Path, default=ROOT / "runs" / "filter-kinds")
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of responses (%(default)s)")
    parser.add_argument("--output", type=Path, help="for the tables, and the filters in place of those that ship")
    parser.add_argument("--quick", action="store_true", help="few of everything; write nothing tracked")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = vtokens.load(MODEL, strategy="none", dtype=torch.float32)
    model.eval()
    about = conditions(torch.device("cpu"), Clock(torch.device("cpu"), 1), model, draws=DRAWS)
    output = options.output or RESULT
    kept = {} if options.quick or not output.exists() else read(output)
    tables = {
        name: [row for row in kept.get(name, []) if row["strategy"] not in options.specs]
        for name in ("rows", "risks", "gates")
    }
    scale = 0.1 if options.quick else options.scale
    for spec in options.specs:
        sets = {
            name: collect(
                model, processor, spec, split, {k: max(8, int(n * scale)) for k, n in zip(kinds, sizes, strict=True)},
                "fast", options.records,
            )
            for name, (split, kinds, sizes) in SIZES.items()
        }  # fmt: skip
        link, held = by_image(sets["calibration"])
        fitted = Calibrator.fit([*sets["train"], *sets["given"]], calibration=link)
        rows = Calibration.of(held, fitted, Risk("any", 0.1, 0.1))
        if not options.quick:
            name = MODEL if spec == "none" else f"{MODEL}-{spec.split('(')[0]}"
            parts = tuple(signal.name for signal in get_signals("fast"))
            folder = output / "filters" if options.output else saved.SHIPPED
            folder.mkdir(parents=True, exist_ok=True)
            saved.write(folder / f"{name}.json", saved.Saved(parts, "scenes", fitted, rows))
        strategy = {"strategy": spec, "scale": scale}
        tables["rows"] += [strategy | row for row in figures(fitted, sets["test"], options.resamples)]
        tables["risks"] += [strategy | row for row in risks(rows, fitted, sets["test"])]
        tables["gates"] += [strategy | row for row in gates(sets["calibration"], sets["test"])]
        print(spec, *tables["gates"][-3:], *tables["rows"][-6:], *tables["risks"][-4:], sep="\n  ", flush=True)
        if not options.quick:
            write(output, {"conditions": about, **tables})


if __name__ == "__main__":
    main()
