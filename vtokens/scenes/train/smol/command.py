"""Command line of the recipe: `python -m vtokens.scenes.train smol --out DIR --seed 0`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ...smol.language import Language
from ...smol.package import language_file
from . import saved
from .course import COURSE
from .pupil import Pupil
from .run import names, run, unseen


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages in order; what is done is left alone, and what was stopped goes on from its last checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m vtokens.scenes.train smol", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and validation.csv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", choices=names(), action="append", help="run only this stage (may be repeated)")
    parser.add_argument("--until", type=int, help="stop each stage after this step")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="what is computed in")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    pupil = Pupil(Language(language_file()), args.seed, getattr(torch, args.dtype))
    before: tuple[Path, str | None] | None = None
    for stage in COURSE:
        path = args.out / f"{stage.name}.safetensors"
        if stage.name in (args.stage or names()):
            if before is not None and before[0].exists() and not path.exists():
                saved.load(before[0], pupil, before[1])
            if not run(stage, args.out, pupil, args.seed, args.until):
                return
        before = path, unseen(stage)
