"""How well each signal of the filter, by itself, finds what an embedded model makes up: AUROC of all of the registry.

python benchmarks/filter_signals.py scenes-llava                  # one thread; goes on where it was stopped
python benchmarks/filter_signals.py scenes-smol --captions 30 --answers 40

Three sets of responses: captions and POPE's adversarial questions of the split whose trained partners are missing, as
the model answers them, and captions of the test split with errors put in by lot. Other models' rows are kept.
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

import torch  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.common import Clock, conditions, write  # noqa: E402
from benchmarks.filter_figures import Table, ranking  # noqa: E402
from benchmarks.filter_records import DRAWS, collect  # noqa: E402
from benchmarks.tables import read  # noqa: E402
from vtokens.filter.calibrators.records import LabelledResponse  # noqa: E402
from vtokens.filter.signals import get_signals, list_signals  # noqa: E402

DTYPES = {"scenes-llava": torch.float32, "scenes-smol": torch.bfloat16}
SETS = {
    "captions": ("partner-removed", "caption"),
    "answers": ("partner-removed", "pope_adversarial"),
    "given captions": ("test", "given_caption"),
}
"""Split and kind of the responses of each set."""


def ranked(records: list[LabelledResponse], resamples: int = 200) -> list[dict[str, Any]]:
    """A row for each value of each signal: AUROC with its interval by image, and how many model passes it takes."""
    table = Table.of(records)
    passes = {signal.name: signal.passes for signal in get_signals(list_signals())}
    return [
        {"signal": name, "passes": passes[name.split(".")[0]], **ranking(values, table, resamples)}
        for name, values in table.signals.items()
    ]


def main() -> None:
    """Ask, rank, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(DTYPES))
    parser.add_argument("--captions", type=int, default=100, help="as answered, and as many given (%(default)s)")
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument(
        "--records", type=Path, default=ROOT / "runs" / "filter-signals", help="kept here (%(default)s)"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "filter-signals")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = vtokens.load(options.model, strategy="none", dtype=DTYPES[options.model])
    vtokens.detach(model.eval())
    before = read(options.output) if (options.output / "rows.csv").is_file() else {"conditions": {}, "rows": []}
    rows = [row for row in before["rows"] if row["model"] != options.model]
    for name, (split, kind) in SETS.items():
        number = options.answers if name == "answers" else options.captions
        place = options.records / options.model
        records = collect(model, processor, "none", split, {kind: number}, list_signals(), place, 10)
        rows += [{"model": options.model, "set": name, "responses": number, **row} for row in ranked(records)]
        print(name, "done", flush=True)
    about = conditions(torch.device("cpu"), Clock(torch.device("cpu"), 1), model, draws=[DRAWS.start])
    found = before["conditions"] | {options.model: {**about, "load_average": {}}}
    write(options.output, {"conditions": {**found, "load_average": {}}, "rows": rows})


if __name__ == "__main__":
    main()
