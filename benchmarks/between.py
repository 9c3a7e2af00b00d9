"""How long this checkout takes beside another one, in one run. See docs/benchmarks.md.

git worktree add /tmp/before d123198
python benchmarks/between.py /tmp/before            # a 279M LLaVA on the CPU, one thread
python benchmarks/between.py /tmp/before --quick    # seconds, to see that it runs

Each checkout has a process of its own that keeps its model; a round asks both for the same work, and which of them goes
first alternates. So what else the machine does falls on both alike. The rows "plain" run no code of ours: how far they
are from 1 is what the figures cannot tell apart.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLAIN = "plain"
PREFILL = (PLAIN, "cls(keep=0.25)", "fastv(keep=0.25)", "todre(keep=0.25)", "random(keep=0.25)", "uniform(keep=0.1)",
           "vhr", "pai", "vhr + pai", "m3id", "vcd", "avisc", "damro")  # fmt: skip
DECODE = (PLAIN, "cls(keep=0.25)", "fastv(keep=0.25)", "vhr", "pai", "vhr + pai", "m3id", "vcd")
STEPS = 12
"""Tokens of a decoding run; their median counts."""


def main() -> None:
    """Ask both, print a row a figure, and write them."""
    options = _options()
    if options.worker:
        return work(options.worker, options.shape)
    sides = [Side(root.resolve(), options.shape) for root in (ROOT, options.before)]
    rows = []
    for kind, specs in (("prefill", PREFILL), ("decode", DECODE), ("attach and detach", PREFILL[1:])):
        for spec in specs:
            rows.append({"kind": kind, "strategy": spec, **compare(sides, kind, spec, options.rounds)})
            print("{kind:18s} {strategy:18s} {before_ms:9.2f} {now_ms:9.2f} ms  {ratio:.3f} ({q1:.3f} to {q3:.3f})"
                  .format(**rows[-1]), flush=True)  # fmt: skip
    if options.output:
        _write(options.output, rows, options)


class Side:
    """A process that runs one checkout."""

    def __init__(self, root: Path, shape: str) -> None:
        command = [sys.executable, __file__, str(root), "--worker", str(root), "--shape", shape]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
        self._line()

    def seconds(self, kind: str, spec: str) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind}\t{spec}\n")
        self._process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline() or sys.exit("a checkout's process ended; its message stands above")


def compare(sides: list[Side], kind: str, spec: str, count: int) -> dict[str, float]:
    """Medians in milliseconds, and the median and quartiles of the rounds' ratios, this checkout over the other."""
    taken = []
    for number in range(count + 1):
        first = sides if number % 2 else sides[::-1]
        of = {id(side): side.seconds(kind, spec) for side in first}
        taken.append([of[id(side)] for side in sides])
    taken = taken[1:]  # the first warms up
    q1, median, q3 = statistics.quantiles([now / before for now, before in taken], n=4)
    return {
        "before_ms": 1e3 * statistics.median(before for _, before in taken),
        "now_ms": 1e3 * statistics.median(now for now, _ in taken),
        "ratio": median, "q1": q1, "q3": q3,
    }  # fmt: skip


def work(root: Path, shape: str) -> None:
    """The process of one checkout: reads what to run, answers CPU seconds of its one thread."""
    sys.path[0:1] = [str(root)]  # instead of the folder of this file: vtokens and the shapes are the checkout's own
    import torch

    import vtokens
    from benchmarks.shapes import build, prompt

    assert Path(vtokens.__file__).is_relative_to(root), vtokens.__file__
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    model = build(shape, torch.device("cpu"), torch.float32)
    batch = dict(prompt(model, (40,)))
    print("ready", flush=True)
    for line in sys.stdin:
        kind, spec = line.rstrip("\n").split("\t")
        print(_run(vtokens, model, batch, kind, spec), flush=True)


def _run(vtokens: Any, model: Any, batch: dict[str, Any], kind: str, spec: str) -> float:
    began = time.process_time()
    if spec != PLAIN:
        vtokens.attach(model, spec)
    try:
        if kind == "prefill":
            began = time.process_time()
            model(**batch, logits_to_keep=1)
        elif kind == "decode":
            return _decode(model, batch)
    finally:
        if spec != PLAIN:
            vtokens.detach(model)
    return time.process_time() - began


def _decode(model: Any, batch: dict[str, Any]) -> float:
    """The median step of a generation: the clock is read where generation asks whether to stop, once a token."""
    from transformers import StoppingCriteriaList

    at: list[float] = []

    def criterion(ids: Any, scores: Any, **kwargs: Any) -> Any:
        at.append(time.process_time())
        return ids.new_zeros(len(ids), dtype=bool)

    model.generate(**batch, max_new_tokens=STEPS, do_sample=False, stopping_criteria=StoppingCriteriaList([criterion]))
    return statistics.median(after - before for before, after in itertools.pairwise(at))


def _write(folder: Path, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    sys.path.insert(0, str(ROOT))
    import torch

    from benchmarks.common import Clock, conditions, write
    from benchmarks.shapes import build

    device = torch.device("cpu")
    model = build(options.shape, device, torch.float32)
    commit = ["git", "-C", str(options.before), "rev-parse", "--short", "HEAD"]
    before = subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()
    about = conditions(
        device, Clock(device, 1), model, draws=[0, 1], shape=options.shape, rounds=options.rounds, before=before
    )
    write(folder, {"conditions": about, "rows": rows})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the root of the other checkout")
    parser.add_argument("--shape", default="llava-300m", help="of benchmarks/shapes.py (%(default)s)")
    parser.add_argument("--rounds", type=int, default=11, help="that count (%(default)s)")
    parser.add_argument("--output", type=Path, help="the folder for the tables (default: none is written)")
    parser.add_argument("--quick", action="store_true", help="a smoke run on a small shape")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if options.quick:
        options.shape, options.rounds = "llava-quick", 2
    return options


if __name__ == "__main__":
    main()
