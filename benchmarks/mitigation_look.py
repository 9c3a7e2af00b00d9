"""Why mitigations do what they do to yes/no answers: do they tell apart, or lean? And the pictures of the page.

python benchmarks/mitigation_look.py scenes-llava scenes-smol    # to results/mitigation-look
python benchmarks/mitigation_look.py --draw-only                 # docs/figures/mitigation-*.png

The margin of an answer is by how much the logit of its first word is above for yes than for no. What a method does to
margins is in part a lean, the same for what is there and what is not, and in part telling apart, which AUROC counts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.common import Clock, conditions, write  # noqa: E402
from benchmarks.mitigation import PLANS  # noqa: E402
from benchmarks.mitigation_page import EXAMS, gathered  # noqa: E402
from benchmarks.mitigation_pictures import draw_answers, draw_captions, draw_margins  # noqa: E402
from benchmarks.tables import read  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.eval.metrics import bootstrap, wilson  # noqa: E402
from vtokens.eval.metrics.detection import auroc  # noqa: E402
from vtokens.scenes import Example  # noqa: E402
from vtokens.scenes.evaluation import encoded  # noqa: E402
from vtokens.strategies import parse  # noqa: E402
from vtokens.strategies.registry import describe  # noqa: E402

QUESTIONS = {"scenes-llava": 100, "scenes-smol": 40}
SEED = 110
LOOKED_AT = {
    "scenes-llava": (
        "vhr", "vcd", "avisc", "damro", "contrast", "pai(alpha=0.2)", "vista", "agla", "dola", "only", "vaf",
    ),
    "scenes-smol": ("vhr", "vcd", "avisc", "damro", "pai(alpha=0.2)", "vista", "only"),
}  # fmt: skip
"""Those whose margins are looked at: one or two of each kind."""


def uncut(spec: str) -> list[Any]:
    """The strategies of a spec without the plausibility cut, which leaves the favourite as it is and hides the rest."""
    return [
        replace(one, beta=0) if "logits" in describe(one.name).stages and hasattr(one, "beta") else one
        for one in parse(spec)
    ]


@torch.no_grad()
def margins(model: Any, processor: Any, spec: str, asked: Sequence[Example], batch: int) -> list[float]:
    """For each question by how much the logit of yes is above that of no, where the answer begins."""
    tokenizer, found = processor.tokenizer, list[float]()
    yes, no = ({tokenizer(text, add_special_tokens=False).input_ids[0] for text in (w, f" {w}")} for w in ("yes", "no"))
    if yes & no:
        raise ValueError("the tokenizer begins yes and no with the same token")
    with vtokens.attach(model, uncut(spec)):
        for start in range(0, len(asked), batch):
            inputs = encoded(processor, asked[start : start + batch])
            kept = {"return_dict_in_generate": True, "output_logits": True}
            logits = model.generate(**inputs, do_sample=False, max_new_tokens=1, **kept).logits[0].float()
            found += (logits[:, sorted(yes)].amax(1) - logits[:, sorted(no)].amax(1)).tolist()
    return found


def row(model: str, spec: str, found: Sequence[float], asked: Sequence[Example]) -> dict[str, Any]:
    """Quartiles of the margins of what is there and of what is not, how often yes leads, and how well both part."""
    at, there = np.array(found), np.array([e.answer == "yes" for e in asked])
    parts = {name: at[mask] for name, mask in (("there", there), ("missing", ~there))}
    columns = np.column_stack([at, there])
    return {
        "model": model,
        "strategy": spec,
        "auroc": asdict(bootstrap(columns, lambda drawn: auroc(*drawn.T), resamples=1000)),
        "margins": {
            name: dict(zip(("low", "middle", "high"), map(float, np.quantile(part, (0.25, 0.5, 0.75))), strict=True))
            for name, part in parts.items()
        },
        "says_yes": {name: asdict(wilson(int((part > 0).sum()), len(part))) for name, part in parts.items()},
    }


def look(names: Sequence[str]) -> dict[str, Any]:
    """The margins of every mitigation alone, on each of these models."""
    about, rows = dict[str, Any](), []
    for name in names:
        model, processor = vtokens.load(name, strategy="none", dtype=getattr(torch, PLANS[name].dtype))
        model.eval()
        asked = scenes.examples("test", n=QUESTIONS[name], seed=SEED, kinds=["pope_adversarial"])
        for spec in ("none", *LOOKED_AT[name]):
            found = margins(model, processor, spec, asked, PLANS[name].batch)
            rows.append(row(name, spec, found, asked))
            print(name, spec, rows[-1]["auroc"]["value"], flush=True)
        about[name] = conditions(
            torch.device("cpu"), Clock(torch.device("cpu"), 1), model, questions=len(asked), seed=SEED
        )
    return {"conditions": {**about, "load_average": {}}, "rows": rows}


def main() -> None:
    """Look, write beside what is known of other models, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(PLANS), metavar="MODEL", help="(both of scenes)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "mitigation-look")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs" / "figures")
    parser.add_argument("--draw-only", action="store_true", help="draw what the results hold")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.draw_only:
        before = read(options.output) if (options.output / "rows.csv").is_file() else {"conditions": {}, "rows": []}
        found = look(options.models)
        found["rows"] = [row for row in before["rows"] if row["model"] not in options.models] + found["rows"]
        write(options.output, {"conditions": before["conditions"] | found["conditions"], "rows": found["rows"]})
    found = {model: gathered(model, "none") for model in EXAMS}
    draw_answers(found, options.pictures / "mitigation-answers.png")
    draw_captions(found, options.pictures / "mitigation-captions.png")
    draw_margins(read(options.output)["rows"], options.pictures / "mitigation-margins.png")


if __name__ == "__main__":
    main()
