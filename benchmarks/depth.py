"""What a decoder does with its picture, layer by layer.

Where the last row of a prompt looks, which tokens are sinks, and whether attention agrees that they are; and how many
answers stay right where the picture is taken away behind a layer.

python benchmarks/depth.py --model scenes-llava --questions 90
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.common import Clock, conditions, write  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.calibrate.sinks import discover  # noqa: E402

DRAWN = 5.0  # times the mean attention: what a sink is expected to draw at least
ROWS = 8  # rows behind a token that are needed to say what it draws


def looked(attention: Tensor, visual: Tensor) -> Tensor:
    """How the last row's attention is shared out, (3,): first token, other text, picture; means over heads.

    attention: (heads, L, L); visual: bool (L,).
    """
    row = attention[:, -1].mean(0)
    first, picture = row[0], row[visual].sum()
    return torch.stack((first, row.sum() - first - picture, picture))


def drawn(attention: Tensor) -> Tensor:
    """How many times its even share each token but the last `ROWS` gets from the rows behind it, (L - ROWS,)."""
    weights, length = attention.mean(0), attention.shape[-1]
    share = torch.arange(1, length + 1)[:, None]
    behind = torch.ones(length, length, dtype=torch.bool).tril(-1)
    return ((weights * share * behind).sum(0) / behind.sum(0))[: length - ROWS]


@torch.no_grad()
def by_layer(model: Any, batches: Sequence[dict[str, Tensor]]) -> list[dict[str, float]]:
    """For every layer: shares of the last row's attention, the first token's phi, the share of visual tokens that are
    sinks, and how many of all that pass the threshold draw `DRAWN` times the mean attention (NaN where none does)."""
    sinks = discover(model, batches).sinks
    tau, dims = sinks.tau, list(sinks.dims) or slice(None)  # where it finds none, any dimension could be one
    found: dict[int, list[tuple[Tensor, float, float, list[bool]]]] = {}
    for batch in batches:
        visual = batch["input_ids"][0] == model.config.image_token_id
        out = model(**batch, output_attentions=True, output_hidden_states=True)
        for layer, (attention, state) in enumerate(zip(out.attentions, out.hidden_states, strict=False)):
            states = state[0].float()
            phi = (states.abs() / states.square().mean(-1, keepdim=True).sqrt())[:, dims].amax(-1)
            sinks = phi > tau
            agrees = (drawn(attention[0])[sinks[:-ROWS]] > DRAWN).tolist()
            shares = looked(attention[0], visual)
            found.setdefault(layer, []).append((shares, float(phi[0]), float(sinks[visual].float().mean()), agrees))
    rows = []
    for layer, seen in found.items():
        first, text, picture = torch.stack([s[0] for s in seen]).mean(0).tolist()
        agrees = [a for s in seen for a in s[3]]
        rows.append(
            {
                "layer": layer,
                "first": first,
                "text": text,
                "picture": picture,
                "phi": sum(s[1] for s in seen) / len(seen),
                "sinks": sum(s[2] for s in seen) / len(seen),
                "agrees": sum(agrees) / len(agrees) if agrees else float("nan"),
            }
        )
    return rows


def without(model: Any, processor: Any, sample: list[Any], layer: int, batch_size: int) -> float:
    """The share of right answers where all but one visual token of each picture are gone from `layer` on."""
    with vtokens.attach(model, f"fastv(keep=1, layer={layer})"):
        return scenes.evaluate(model, processor, sample, batch_size)["overall"].share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-llava")
    parser.add_argument("--questions", type=int, default=90, help="questions answered without the picture")
    parser.add_argument("--prompts", type=int, default=8, help="prompts whose attention is looked at")
    parser.add_argument("--every", type=int, default=1, help="take the picture away behind every so many layers")
    parser.add_argument("--batch-size", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, help="a folder for the table, such as benchmarks/results/depth-scenes-smol"
    )
    options = parser.parse_args()
    model, processor = vtokens.load(options.model, "none", attn_implementation="eager")
    kinds = ["exist", "where", "at", "colour_of"]
    sample = scenes.examples("test", n=options.questions, seed=options.seed, kinds=kinds)
    batches = [
        dict(processor(images=e.image, text=scenes.prompt(processor, e.question), return_tensors="pt"))
        for e in sample[: options.prompts]
    ]
    print(
        "| layer | first token | other text | picture | phi of the first | visual sinks | that draw | right without |"
    )
    print("|---|---|---|---|---|---|---|---|")
    found: list[dict[str, Any]] = []
    size = {"questions": options.questions, "prompts": options.prompts, "seed": options.seed}
    about = conditions(torch.device("cpu"), Clock(torch.device("cpu"), 1), model, **size)
    for row in by_layer(model, batches):
        layer = int(row["layer"])
        right: dict[str, float] = {}
        if layer and layer % options.every == 0:
            right["right_without"] = without(model, processor, sample, layer, options.batch_size)
        cells = [f"{row[k]:.2f}" for k in ("first", "text", "picture")] + [f"{row['phi']:.1f}"]
        cells += ["" if math.isnan(row[k]) else f"{row[k]:.1%}" for k in ("sinks", "agrees")]
        print(f"| {layer} | " + " | ".join([*cells, *(f"{share:.3f}" for share in right.values())]) + " |", flush=True)
        found.append({k: v for k, v in row.items() if not math.isnan(v)} | {"layer": layer} | right)
    whole = scenes.evaluate(model, processor, sample, options.batch_size)["overall"]
    print(f"\nwith the picture: {whole}")
    if options.output:
        write(options.output, {"conditions": {**about, "right_with_the_picture": vars(whole)}, "rows": found})


if __name__ == "__main__":
    main()
