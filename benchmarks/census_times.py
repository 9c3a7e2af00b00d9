"""What counting costs: census beside the same picks without merging and sizes, on a 279M LLaVA with random weights.

python benchmarks/census_times.py --rounds 7            # one thread, processor time; ratios within each round
python benchmarks/census_times.py --shape llava-quick   # seconds, to see that it runs

The first token is a pass over the prompt, tower and selection included; a step is one more token over its cache.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import benchmarks.census_variants  # noqa: E402, F401  # registers kcenter
import vtokens  # noqa: E402
from benchmarks.common import Clock, conditions, ratio, rounds, summary, write  # noqa: E402
from benchmarks.shapes import build, prompt  # noqa: E402

STEPS = 16
"""Tokens behind the first one of which a step is the mean."""


class Timed:
    """A model under one strategy: the seconds of a first token, and of a step behind it."""

    def __init__(self, model: Any, batch: dict[str, Any], spec: str, clock: Clock) -> None:
        self._model, self._batch, self._spec, self._clock = model, batch, spec, clock

    def __call__(self) -> tuple[float, float]:
        with vtokens.attach(self._model, self._spec), torch.no_grad():
            begin = self._clock.now()
            found = self._model(**self._batch, use_cache=True, logits_to_keep=1)
            first = self._clock.now() - begin
            length = self._batch["input_ids"].shape[1]
            token = found.logits[:, -1:].argmax(-1)
            begin = self._clock.now()
            for step in range(STEPS):
                mask = torch.ones(len(token), length + step + 1, dtype=torch.long)
                found = self._model(
                    input_ids=token, past_key_values=found.past_key_values, attention_mask=mask, logits_to_keep=1
                )
                token = found.logits[:, -1:].argmax(-1)
            return first, (self._clock.now() - begin) / STEPS


def main() -> None:
    """Time, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llava-300m")
    parser.add_argument("--keeps", nargs="+", type=float, default=[0.1, 0.5])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    clock, model = Clock(device, 1), build(options.shape, device, torch.float32)
    batch = dict(prompt(model, (40,)))
    about = conditions(device, clock, model, draws=[0, 1], shape=options.shape, steps=STEPS)
    rows = []
    for keep in options.keeps:
        runs = {name: Timed(model, batch, f"{name}(keep={keep})", clock) for name in ("kcenter", "census")}
        taken = rounds(runs, options.rounds)
        for number, what in enumerate(("first token", "step")):
            mine, plain = ([one[number] for one in taken[name]] for name in ("census", "kcenter"))
            row = {"keep": keep, "what": what, "seconds": summary(mine), "over_kcenter": ratio(mine, plain)}
            row["fastest_over_fastest"] = min(mine) / min(plain)  # what other processes slow down least
            rows.append(row)
            print(row, flush=True)
    if options.output:
        write(options.output, {"conditions": about, "rows": rows})


if __name__ == "__main__":
    main()
