"""Command line of the recipe: `python -m vtokens.scenes.train --out DIR --seed 0`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from .stages import STAGES, STEPS, compile_layers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vtokens.scenes.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the stages' weights and the final model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", choices=list(STAGES), action="append", help="run only this stage (may be repeated)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every stage's steps")
    parser.add_argument("--no-compile", action="store_true", help="do not compile the layers")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not args.no_compile:
        compile_layers()
    for name in args.stage or STAGES:
        torch.manual_seed(args.seed)
        STAGES[name](args.out, args.seed, max(1, round(STEPS[name] * args.scale)), device)


if __name__ == "__main__":
    if sys.argv[1:2] == ["smol"]:
        from .smol.command import main as smol

        smol(sys.argv[2:])
    elif sys.argv[1:2] == ["qwen"]:
        from .qwen.command import main as qwen

        qwen(sys.argv[2:])
    else:
        main()
