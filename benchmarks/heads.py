"""How often VHR's two ways to measure divergence pick the same heads, on the embedded model and held-out scenes.

python benchmarks/heads.py --out benchmarks/results/heads-scenes
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.common import cpu_name, write  # noqa: E402
from benchmarks.record import record  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.core.compat import returned_cache  # noqa: E402
from vtokens.engine.state.tracked_layer import TrackedLayer  # noqa: E402
from vtokens.strategies import get  # noqa: E402


@torch.no_grad()
def chosen(model: Any, batch: dict[str, Tensor], divergence: str) -> dict[int, Tensor]:
    """Decoder layer -> bool (B, H), the heads reinforced."""
    with vtokens.attach(model, get("vhr")(divergence=divergence)):
        cache = returned_cache(model(**batch, use_cache=True))
    layers = enumerate(cache.layers)
    return {
        index: layer.keymap.memory.samples["vhr.heads"]
        for index, layer in layers
        if isinstance(layer, TrackedLayer) and "vhr.heads" in layer.keymap.memory.samples
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="scenes-llava")
    options.add_argument("--questions", type=int, default=990)
    options.add_argument("--batch-size", type=int, default=30)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path)
    options = options.parse_args()
    model, processor = vtokens.load(options.model)
    examples = scenes.examples("test", n=options.questions, seed=options.seed)
    agree: dict[int, list[Tensor]] = {}
    same: dict[int, list[Tensor]] = {}
    for start in range(0, len(examples), options.batch_size):
        part = examples[start : start + options.batch_size]
        batch = dict(
            processor(
                images=[example.image for example in part],
                text=[scenes.prompt(processor, example.question) for example in part],
                padding=True,
                return_tensors="pt",
            )
        )
        single, double = chosen(model, batch, "single_pass"), chosen(model, batch, "two_branch")
        for layer, heads in single.items():
            agree.setdefault(layer, []).append((heads == double[layer]).float())
            same.setdefault(layer, []).append((heads == double[layer]).all(1).float())
    layers = [
        {
            "layer": layer,
            "heads_decided_alike": round(torch.cat(agree[layer]).mean().item(), 4),
            "same_set": round(torch.cat(same[layer]).mean().item(), 4),
        }
        for layer in agree
    ]
    about = {
        **record([options.seed]),
        "device": cpu_name(),
        "model": options.model,
        "questions": len(examples),
        "heads": int(next(iter(agree.values()))[0].shape[1]),
        "heads_decided_alike": round(
            torch.cat([torch.cat(parts).flatten() for parts in agree.values()]).mean().item(), 4
        ),
    }
    for row in layers:
        print(row)
    if options.out is not None:
        write(options.out, {"conditions": about, "layers": layers})


if __name__ == "__main__":
    main()
