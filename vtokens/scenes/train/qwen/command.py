"""Command line of the recipe: `python -m vtokens.scenes.train qwen --out DIR --seed 0`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from .course import COURSE, Stage
from .run import run


def main(arguments: Sequence[str] | None = None, course: Sequence[Stage] = COURSE) -> None:
    """Run the stages in order; what is done is left alone, and what was stopped goes on from its last checkpoint."""
    names = [stage.name for stage in course]
    parser = argparse.ArgumentParser(prog="python -m vtokens.scenes.train qwen", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and training.csv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", choices=names, action="append", help="run only this stage (may be repeated)")
    parser.add_argument("--until", type=int, help="stop each stage after this step")
    parser.add_argument("--workers", type=int, default=1, help="processes that make batches (%(default)s)")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], help="what is computed in (what is fastest here)")
    args = parser.parse_args(arguments)
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    args.out.mkdir(parents=True, exist_ok=True)
    for stage in course:
        if stage.name not in (args.stage or names):
            continue
        if not run(stage, args.out, args.seed, args.until, args.workers, dtype, course):
            return
