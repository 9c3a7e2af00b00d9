"""Accuracy on clips of scenes against frames and the share of tokens kept: `python benchmarks/clips.py --model FOLDER`.

    python benchmarks/clips.py --model runs/qwen/model --questions 300 --pictures 300     # unpruned, with pictures
    python benchmarks/clips.py --model runs/qwen/model --kinds needle --frames 16 64 256 512 \
        --specs none random evs --keeps 0.5 0.1 0.05 --questions 60 --batch-size 1

Every figure has its 95% Wilson interval. `peak_bytes` is of one question and one new token, tower and processor too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.common import Clock, conditions, peak_bytes, write  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.scenes import clips  # noqa: E402

RESULT = Path(__file__).parent / "results" / "clips"


def samples(options: argparse.Namespace) -> Iterator[tuple[int, list[Any]]]:
    """What is asked, by frames; 0 for pictures."""
    if options.pictures:
        yield 0, scenes.examples("test", options.pictures, options.seed)
    for frames in options.frames:
        yield frames, clips.examples("test", options.questions, options.seed, options.kinds, frames)


def rows(model: Any, processor: Any, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each strategy, keep and number of frames, with the accuracy of each kind."""
    clock = Clock(model.device, torch.get_num_threads())
    for frames, sample in samples(options):
        for spec in options.specs:
            for keep in [1.0] if spec == "none" else options.keeps:
                if spec != "none":
                    vtokens.attach(model, spec, keep=keep)
                peak = peak_bytes(partial(scenes.answer, model, processor, sample[:1], 1, 1), model.device)
                start = clock.now()
                found = scenes.evaluate(model, processor, sample, options.batch_size)
                row = {"strategy": spec, "keep": keep, "frames": frames, "questions": len(sample)}
                row |= {
                    "seconds": clock.now() - start,
                    "peak_bytes": peak,
                    **{kind: asdict(figure) for kind, figure in found.items()},
                }
                print(f"{spec} {keep} {frames} frames: " + "; ".join(f"{k} {v}" for k, v in found.items()), flush=True)
                if spec != "none":
                    vtokens.detach(model)
                yield row


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an embedded model or a folder that sees videos")
    parser.add_argument("--kinds", nargs="+", default=list(clips.KINDS), choices=clips.KINDS)
    parser.add_argument("--frames", nargs="+", type=int, default=[16])
    parser.add_argument("--specs", nargs="+", default=["none"])
    parser.add_argument("--keeps", nargs="+", type=float, default=[0.5, 0.25, 0.1, 0.05])
    parser.add_argument("--questions", type=int, default=300, help="about clips of each length")
    parser.add_argument("--pictures", type=int, default=0, help="questions about pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    model, processor = vtokens.load(options.model, strategy="none", dtype=torch.float32)
    model.eval()
    clock = Clock(model.device, torch.get_num_threads())
    told = conditions(model.device, clock, model, folder=options.model, seed=options.seed)
    write(options.output, {"conditions": told, "accuracy": list(rows(model, processor, options))})


if __name__ == "__main__":
    main()
