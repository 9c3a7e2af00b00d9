"""Accuracy against visual tokens where a strategy decides how many a picture needs. See docs/benchmarks.md.

python benchmarks/dymu.py --specs none dymu "dymu(thresholds=t.json)" "cls(keep=0.25)"
python benchmarks/dymu.py --merged docs/figures/dymu-merged.png
python benchmarks/dymu.py --quick

The questions are those of `benchmarks/scenes.py`, and its figures of the pruners at fixed keeps are drawn beside.
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

import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402
from rich.progress import track  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.asking import ask  # noqa: E402
from benchmarks.common import Clock, conditions, write  # noqa: E402
from benchmarks.tables import RESULTS, interval, read  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.core.overlay import overlay, seen_image  # noqa: E402
from vtokens.eval.metrics import mcnemar, wilson  # noqa: E402
from vtokens.tables.thresholds import NAMED  # noqa: E402


def row(spec: str, examples: list[scenes.Example], texts: list[str], tokens: list[float], full: list[str]) -> Any:
    """Figures of one spec: accuracy by kind, tokens by how full the picture is, and the paired test against `full`.

    `tokens_by_objects` maps the number of shapes and digits in the picture to the mean tokens of such pictures.
    """
    right = np.array([scenes.score(text, e) for text, e in zip(texts, examples, strict=True)])
    before = [scenes.score(text, e) for text, e in zip(full, examples, strict=True)]
    kinds, kept = np.array([e.kind for e in examples]), np.array(tokens)
    objects = np.array([len(e.scene.visible) + len(e.scene.digits) for e in examples])
    chosen = {"overall": right} | {kind: right[kinds == kind] for kind in dict.fromkeys(kinds.tolist())}
    low, middle, high = np.percentile(kept, [5, 50, 95])
    return {
        "strategy": spec,
        "tokens": {"mean": float(kept.mean()), "p5": float(low), "median": float(middle), "p95": float(high)},
        "tokens_by_objects": {int(n): float(kept[objects == n].mean()) for n in np.unique(objects)},
        "accuracy": {name: vars(wilson(int(hits.sum()), len(hits))) for name, hits in chosen.items()},
        "against_none": vars(mcnemar(right.tolist(), before)),
    }


def draw(rows: list[Any], pruned: list[Any], path: Path) -> None:
    """Accuracy against tokens: a point a spec with its interval, a line for each pruner of `results/scenes-llava`."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    names = dict.fromkeys(r["strategy"] for r in pruned if r["strategy"] != "none")
    for name, marker in zip(names, "os^Dv", strict=True):
        line = sorted(
            (r["tokens_per_layer"], r["accuracy"]["overall"]["share"]) for r in pruned if r["strategy"] == name
        )
        axes.plot(*zip(*line, strict=True), marker=marker, markersize=4, color="0.45", linewidth=1, label=name)
    for number, r in enumerate(rows):
        found = r["accuracy"]["overall"]
        height = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
        at = (r["tokens"]["mean"], found["value"])
        axes.errorbar(*at, yerr=height, fmt="o", capsize=3, color=f"C{number}", label=r["strategy"])
    axes.set(
        xlabel="visual tokens a decoder layer sees, mean", ylabel="accuracy on scenes, 95% interval", xlim=(0, None)
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def show_merged(model: Any, processor: Any, path: Path, side: int = 480, gap: int = 8) -> None:
    """A simple and a busy scene, and beside each what tokens stand for at the three named targets."""
    drawn = scenes.examples("test", n=40, seed=5)
    chosen = [
        next(e for e in drawn if len(e.scene.visible) <= 2),
        next(e for e in drawn if len(e.scene.visible) >= 5),
    ]
    targets = sorted(NAMED, key=lambda name: -NAMED[name])
    sheet = Image.new("RGB", ((1 + len(targets)) * (side + gap) - gap, len(chosen) * (side + gap) - gap), "white")
    for row, example in enumerate(chosen):
        batch = processor(images=example.image, text=scenes.prompt(processor, example.question), return_tensors="pt")
        pictures = [example.image.resize((side, side), Image.Resampling.NEAREST)]
        for target in targets:
            with torch.no_grad(), vtokens.attach(model, "dymu", target=target) as handle:
                model(**batch)
                kept = handle.report().samples[0].pictures[0]
            pictures.append(overlay(seen_image(processor, example.image), kept, scale=side // example.image.width))
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (column * (side + gap), row * (side + gap)))
    sheet.save(path, optimize=True)


def main() -> None:
    """Ask, count, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-llava")
    parser.add_argument("--specs", nargs="+", default=["dymu"], metavar="SPEC", help="`none` is always measured")
    parser.add_argument("--questions", type=int, default=330, help="per seed (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS / "dymu-scenes")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "figures" / "dymu-scenes.png")
    parser.add_argument("--merged", type=Path, help="only draw here what is merged in two scenes")
    parser.add_argument("--quick", action="store_true", help="44 questions; write under runs/")
    options = parser.parse_args()
    if options.quick:
        options.questions, options.seeds = 44, 1
        options.output, options.picture = (ROOT / "runs" / name for name in ("dymu-quick", "dymu-quick.png"))
    torch.set_num_threads(1)
    model, processor = vtokens.load(options.model, strategy="none", dtype=torch.float32)
    model.eval()
    if options.merged:
        show_merged(model, processor, options.merged)
        return
    specs = ["none", *(spec for spec in options.specs if spec != "none")]
    for spec in specs:
        vtokens.attach(model, spec).detach()  # what cannot run says so before anything is asked
    examples = [e for seed in range(options.seeds) for e in scenes.examples("test", n=options.questions, seed=seed)]
    asked = {spec: ask(model, processor, spec, examples) for spec in track(specs, description="asking")}
    rows = [
        {**row(spec, examples, found.texts, found.tokens, asked["none"].texts), "cpu_seconds": round(found.seconds, 1)}
        for spec, found in asked.items()
    ]
    size = {"questions_per_seed": options.questions, "seeds": options.seeds}
    about = conditions(torch.device("cpu"), Clock(torch.device("cpu"), 1), model, **size)
    write(options.output, {"conditions": about, "rows": rows})
    draw(rows, read("scenes-llava")["rows"], options.picture)
    for r in rows:
        right, p = interval(r["accuracy"]["overall"]), r["against_none"]["p_value"]
        print(f"{r['strategy']}: {r['tokens']['mean']:.1f} tokens, {right}, p {p:.3g}")


if __name__ == "__main__":
    main()
