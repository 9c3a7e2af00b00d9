"""Where a call goes in every family, at one size: `python -m tests.families`.

Tiny models of each family's own classes (decoders of 4 layers and width 64, towers of 4 and 32, random weights) answer
a question about one picture, with and without a pruner that needs nothing of the tower. At this size
calls are made of what Python does between kernels: the table says that stages are found in every family and what ours
add there, and nothing about large models.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

import vtokens
from benchmarks import tables
from benchmarks.common import Clock, conditions, ratio, rounds, summary, write
from tests.families import ALL, OUTSIDE, STATEFUL, build, image, inputs
from vtokens.eval.clock import PhaseClock

RESULT = tables.RESULTS / "profile-families-cpu"
PHASES = ("encode", "select", "prefill", "decode")


def timed(model: Any, batch: Any, spec: str, new_tokens: int, clock: Clock) -> dict[str, float]:
    """Seconds of one whole call, by phase."""
    length = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens, "do_sample": False}
    with nullcontext() if spec == "none" else vtokens.attach(model, spec), PhaseClock(model, clock.now) as phases:
        whole = clock.time(lambda: model.generate(**batch, **length))
    found = phases.phases()
    return {**{name: getattr(found, name) for name in PHASES}, "request": whole}


def row(family: str, options: argparse.Namespace) -> dict[str, Any]:
    """A family's row: tokens, and medians of each phase with and without the strategy."""
    model, processor = build(family)
    width, height = options.picture
    batch = inputs(processor, ["what is it?"], [[image(width, height, seed=1)]])
    clock = Clock(model.device, 1)
    with vtokens.attach(model, options.spec) as handle:
        model.generate(**batch, max_new_tokens=1)
        report = handle.report()
    [sample] = report.samples
    specs = {"unpruned": "none", "pruned": options.spec}
    calls = {
        name: lambda spec=spec: timed(model, batch, spec, options.new_tokens, clock) for name, spec in specs.items()
    }
    found = rounds(calls, options.rounds)
    seconds = {name: {part: summary([one[part] for one in many]) for part in many[0]} for name, many in found.items()}
    share = ratio([one["request"] for one in found["pruned"]], [one["request"] for one in found["unpruned"]])
    return {
        "family": family,
        "strategy": report.strategy,
        "prompt_tokens": batch["input_ids"].shape[1],
        "visual_tokens": sum(kept.picture.tokens for kept in sample.pictures),
        "kept_tokens": sample.average_tokens,
        "seconds": seconds,
        "of_unpruned": share,
    }


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each family, or why there is none."""
    for family in options.families:
        try:
            found = row(family, options)
        except ValueError as error:  # what a family refuses is said in its row
            found = {"family": family, "failed": str(error).splitlines()[0]}
        print(family, found.get("of_unpruned", found.get("failed")), flush=True)
        yield found


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*dict.fromkeys((*ALL, *STATEFUL, *OUTSIDE))]
    parser.add_argument("--families", nargs="+", default=every, choices=every)
    parser.add_argument("--spec", default="uniform(keep=0.25)")
    parser.add_argument("--picture", nargs=2, type=int, default=(112, 112), metavar=("W", "H"), help="in pixels")
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = build(options.families[0])[0]
    told = conditions(model.device, Clock(model.device, 1), model, draws=[0, 1], picture=list(options.picture))
    told.pop("parameters")
    with torch.no_grad():
        write(options.output, {"conditions": told, "families": list(measured(options))})


if __name__ == "__main__":
    main()
