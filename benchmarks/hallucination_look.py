"""Why VAR and VHR do on scenes what they do: sinks, visual mass, heads, and what a hallucination rests on.

python benchmarks/hallucination_look.py    # facts to results/hallucination-look, pictures to docs/figures/
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.progress import track  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.asking import ask  # noqa: E402
from benchmarks.common import Clock, conditions, write  # noqa: E402
from benchmarks.hallucination_causes import causes, missing, pair_of, trigger_cell  # noqa: E402
from benchmarks.hallucination_pictures import draw_maps, draw_why  # noqa: E402
from benchmarks.hallucination_rows import make_row  # noqa: E402
from benchmarks.tables import read  # noqa: E402
from benchmarks.watching import Other, Seen, Watch, patches  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.adapters import adapter_for  # noqa: E402
from vtokens.eval.hallucination import exam  # noqa: E402
from vtokens.scenes import PAIRS, Example  # noqa: E402
from vtokens.strategies import parse  # noqa: E402
from vtokens.tables.sinks import Sinks  # noqa: E402

ALPHAS = (0.5, 0.75, 1.25, 1.5, 3.0)
FORCED = (4.0, 3.5, 3.0)
CONTROLS = {
    "nothing": "none",
    "`vhr`": "vhr",
    "`vhr`, two branches": "vhr(divergence='two_branch')",
    "the heads that `vhr` leaves": Other(which="left"),
    "two heads a layer by lot": Other(which="lot"),
    "all heads of these layers": Other(which="all"),
}


def watch(model: Any, processor: Any, asked: Sequence[Example], spec: str = "none", size: int = 32) -> list[list[Seen]]:
    """What every decoder layer saw at prefill: a list of layers for each batch."""
    found = []
    for start in range(0, len(asked), size):
        part, log = asked[start : start + size], deque[Seen]()
        inputs = processor(
            images=[e.image for e in part],
            text=[scenes.prompt(processor, e.question) for e in part],
            padding=True,
            return_tensors="pt",
        )
        with vtokens.attach(model, [*parse(spec), Watch(log)]), torch.no_grad():
            model(**inputs)
        found.append(sorted(log, key=lambda seen: seen.layer))
    return found


def sinks_and_mass(batches: list[list[Seen]]) -> list[dict[str, Any]]:
    """Per layer: how huge states get, and where the last prompt position looks, heads averaged and one by one.

    `visual_tokens_for_half`: the fewest visual tokens that hold half of the visual mass, averaged over heads.
    """
    rows = []
    for layer in zip(*batches, strict=True):
        first = torch.cat([s.phi[s.valid & (s.valid.cumsum(1) == 1)] for s in layer])
        visual = torch.cat([s.phi[s.visual] for s in layer])
        text = torch.cat([s.phi[s.valid & ~s.visual] for s in layer])
        dims, counts = torch.cat([s.dim[s.visual] for s in layer]).unique(return_counts=True)
        order = counts.argsort(descending=True)[:3]
        weights = [s.weights.masked_fill(~s.visual[:, None], 0.0) for s in layer]
        on_visual = torch.cat([w.sum(2) for w in weights])
        on_first = torch.cat([(s.weights * (s.valid & (s.valid.cumsum(1) == 1))[:, None]).sum(2) for s in layer])
        ranked = torch.cat([w.topk(int(s.visual.sum(1).min()), 2).values for w, s in zip(weights, layer, strict=True)])
        half = (ranked.cumsum(2) < 0.5 * ranked.sum(2, keepdim=True)).sum(2) + 1
        rows.append(
            {
                "layer": layer[0].layer,
                "phi_first_token": _round(first.max()),
                "phi_visual_median": _round(visual.median()),
                "phi_visual_max": _round(visual.max()),
                "phi_text_max": _round(text.max()),
                "tokens": len(visual) + len(text),
                "above_20": int((visual > 20).sum() + (text > 20).sum()),
                "largest_dims": [[int(dims[i]), _round(counts[i] / len(visual))] for i in order],
                "mass_first_token": _round(on_first.mean()),
                "mass_visual": _round(on_visual.mean()),
                "mass_visual_by_head": [_round(share) for share in on_visual.mean(0)],
                "rows_with_visual_mass_0.2": _round((on_visual >= 0.2).float().mean()),
                "visual_tokens_for_half": _round(half.float().mean()),
            }
        )
    return rows


def heads(single: list[list[Seen]], double: list[list[Seen]], asked: Sequence[Example]) -> list[dict[str, Any]]:
    """Per layer in which VHR acts: which heads it takes, and how much they look at the trigger of a missing partner.

    The attention is that of the last prompt position; `trigger_of_visual` is the share of the visual mass that falls
    on the trigger's cell, in heads that are taken and in heads that are not (1/16 if it were spread evenly).
    """
    rows = []
    for one, two in zip(zip(*single, strict=True), zip(*double, strict=True), strict=True):
        if one[0].chosen is None:
            continue
        chosen = torch.cat([s.chosen for s in one if s.chosen is not None])
        other = torch.cat([s.chosen for s in two if s.chosen is not None])
        weights = torch.cat([_visual_weights(s) for s in one])
        on_trigger = torch.stack([w[:, patches(trigger_cell(e))].sum(1) for w, e in zip(weights, asked, strict=True)])
        share = on_trigger / weights.sum(2)
        rows.append(
            {
                "layer": one[0].layer,
                "taken": [_round(part) for part in chosen.float().mean(0)],
                "same_set_as_two_branch": _round((chosen == other).all(1).float().mean()),
                "trigger_of_visual_taken": _round(share[chosen].mean()),
                "trigger_of_visual_left": _round(share[~chosen].mean()),
            }
        )
    return rows


def sweep(model: Any, processor: Any, specs: dict[str, Any], asked: Sequence[Example]) -> list[dict[str, Any]]:
    """POPE, CHAIR, the share of missing partners seen and what the strategies tell, for each spec by its label."""
    rows = []
    for label, spec in track(specs.items(), description="sweep"):
        found = ask(model, processor, spec, asked)
        row = {"label": label, "split": asked[0].split, "figures": found.figures}
        rows.append({**row, **make_row(asked, found.texts, None)})
    return rows


def forced(model: Any, rows: list[dict[str, Any]], taus: Sequence[float], folder: Path) -> dict[str, str]:
    """VAR with thresholds so low that ordinary tokens are taken for sinks: label -> spec."""
    decoder = adapter_for(model).facts.decoder
    dims = tuple(dict.fromkeys(dim for row in rows for dim, _ in row["largest_dims"][:2]))
    found = {}
    for tau in taus:
        Sinks(decoder, dims, tau, "forced").save(path := folder / f"{tau}.json")
        found[f"`var`, sinks forced: phi > {tau:g}"] = f"var(sinks='{path}')"
    return found


def _visual_weights(seen: Seen) -> torch.Tensor:
    """float32 (B, H, N): the attention on the visual tokens; every picture has as many."""
    batch, heads, _ = seen.weights.shape
    return seen.weights.masked_select(seen.visual[:, None]).view(batch, heads, -1)


def _round(value: Any) -> float:
    return round(float(value), 4)


def look(model: Any, processor: Any, size: dict[str, int]) -> dict[str, Any]:
    """Every fact of the page."""
    about = conditions(torch.device("cpu"), Clock(torch.device("cpu"), 1), model, **size)
    partner = missing("partner-removed", **size)
    asks = [e for e in partner if e.kind != "caption"]
    layers = sinks_and_mass(watch(model, processor, scenes.examples("test", n=220, seed=size["seed"])))
    single, double = (watch(model, processor, asks, spec) for spec in ("vhr", "vhr(divergence='two_branch')"))
    half = exam("partner-removed", size["questions"] // 2, size["captions"] // 2, size["seed"] + 1)
    with tempfile.TemporaryDirectory() as folder:
        weak = sweep(model, processor, forced(model, layers, FORCED, Path(folder)), half)
    return {
        "conditions": about,
        "layers": layers,
        "heads": heads(single, double, asks),
        "causes": causes(model, processor, partner),
        "controls": sweep(model, processor, CONTROLS, half),
        "alpha": sweep(model, processor, {f"`vhr(alpha={a:g})`": f"vhr(alpha={a})" for a in ALPHAS}, half),
        "forced": weak,
    }


def draw(model: Any, processor: Any, result: dict[str, Any], folder: Path) -> None:
    """The page's pictures; the maps are of the first question for the most hallucinated partner in a full picture."""
    draw_why(result, folder / "hallucination-why.png")
    asks = missing("partner-removed", questions=100, captions=1, seed=result["conditions"]["seed"])
    shown = next(e for e in asks if pair_of(e) == PAIRS[-1] and len(e.scene.visible) > 2)
    before, after = (watch(model, processor, [shown], spec)[0] for spec in ("none", "vhr"))
    draw_maps(shown, before, after, folder / "hallucination-attention.png")


def main() -> None:
    """Look, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-llava")
    parser.add_argument("--questions", type=int, default=1000, help="to draw, in each setting (%(default)s)")
    parser.add_argument("--captions", type=int, default=500, help="to draw (%(default)s)")
    parser.add_argument("--seed", type=int, default=101, help="of the scenes (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "hallucination-look")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs" / "figures")
    parser.add_argument("--draw-only", action="store_true", help="draw what --output holds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = vtokens.load(options.model, strategy="none", dtype=torch.float32)
    model.eval()
    if not options.draw_only:
        size = {"questions": options.questions, "captions": options.captions, "seed": options.seed}
        write(options.output, look(model, processor, size))
    draw(model, processor, read(options.output), options.pictures)


if __name__ == "__main__":
    main()
