"""Measures the headline figures of the release at hand and keeps them, a row a release: benchmarks/results/trend.csv.

python benchmarks/trend.py            # seven minutes of an idle core; the row of this version is replaced
python benchmarks/trend.py --quick    # few questions and rounds on a small shape; nothing is written

A row has a release's ratios and sizes beside its record (benchmarks/record.py). Compare rows of one device.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import vtokens  # noqa: E402
from benchmarks import cells  # noqa: E402
from benchmarks.asking import ask  # noqa: E402
from benchmarks.common import Clock, cpu_name  # noqa: E402
from benchmarks.record import record  # noqa: E402
from benchmarks.shapes import build, prompt  # noqa: E402
from vtokens import adapters, scenes  # noqa: E402
from vtokens.strategies import list_strategies  # noqa: E402

TREND = ROOT / "benchmarks" / "results" / "trend.csv"
ASKED = ("census", "cls", "fastv")
KEEP = 0.1


def row(options: argparse.Namespace) -> dict[str, Any]:
    """What is measured of the release at hand."""
    made = record([0, 1])
    found: dict[str, Any] = {"release": made["versions"]["vtokens"], "date": made["date"], "commit": made["commit"]}
    found |= {name: made["versions"][name] for name in ("python", "torch", "transformers", "triton")}
    found |= {"device": cpu_name(), "load_at_start": round(os.getloadavg()[0], 2), "draws": "0 1"}
    found |= first_token(options) | accuracy(options)
    found |= {"strategies": len(list_strategies()), "families": len(adapters.models())}
    found |= {"tests": tests(), "wheel_bytes": wheel_bytes(), "load_at_end": round(os.getloadavg()[0], 2)}
    return found | {"command": made["command"]}


def first_token(options: argparse.Namespace) -> dict[str, Any]:
    """How many times sooner the first token comes under `cls` at keep 0.1, and the share of the ideal's speed-up."""
    device = torch.device("cpu")
    model = build(options.shape, device, torch.float32)
    cell = cells.first_token(model, prompt(model, (40,)), f"cls(keep={KEEP})", Clock(device, 1), options.rounds)
    told = {"shape": options.shape, "rounds": options.rounds, "cls_first_token": cell["speed_up"]["median"]}
    told |= {"cls_of_ideal": cell["of_ideal"]["median"], "cls_kv": cell["kv_ratio"]}
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in told.items()}


def accuracy(options: argparse.Namespace) -> dict[str, Any]:
    """Right answers of scenes-llava at keep 0.1, of so many questions."""
    model, processor = vtokens.load("scenes-llava", strategy="none")
    vtokens.detach(model)
    examples = scenes.examples("test", n=options.questions)
    told: dict[str, Any] = {"questions": len(examples)}
    for name in ("none", *ASKED):
        texts = ask(model, processor, name, examples, keep=None if name == "none" else KEEP).texts
        told[f"{name}_right"] = sum(scenes.score(text, one) for text, one in zip(texts, examples, strict=True))
    return {name: int(value) for name, value in told.items()}


def tests() -> int:
    """How many tests pytest collects."""
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    counted = re.search(r"^(?:(\d+)/)?(\d+) tests? collected", done.stdout, re.MULTILINE)
    if counted is None:
        raise RuntimeError(f"pytest told no number of tests: {done.stdout[-300:]}")
    return int(counted[1] or counted[2])


def wheel_bytes() -> int:
    """The size of the wheel that is built of this tree."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, str(ROOT)]
        subprocess.run(words, check=True, capture_output=True)
        [wheel] = Path(folder).glob("*.whl")
        return wheel.stat().st_size


def kept(rows: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows with the new one, in place of what was there of the same release."""
    rows = [one for one in rows if one["release"] != new["release"]]
    return sorted([*rows, new], key=lambda one: [int(part) for part in re.findall(r"\d+", one["release"])[:3]])


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=330, help="of scenes, all kinds in turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="that count (%(default)s)")
    parser.add_argument("--shape", default="llava-300m", help="of benchmarks/shapes.py (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small shape and 22 questions; nothing is written")
    options = parser.parse_args()
    if options.quick:
        options.questions, options.rounds, options.shape = 22, 1, "llava-quick"
    torch.set_num_threads(1)
    new = row(options)
    for name, value in new.items():
        print(f"{name}: {value}")
    if not options.quick:
        rows = list(csv.DictReader(TREND.open(encoding="utf-8", newline=""))) if TREND.exists() else []
        with TREND.open("w", encoding="utf-8", newline="") as file:
            out = csv.DictWriter(file, list(new), lineterminator="\n")
            out.writeheader()
            out.writerows(kept(rows, new))


if __name__ == "__main__":
    main()
