"""What a trained run answers, beside the targets: `python -m vtokens.scenes.train.smol.report --out DIR`.

Everything is measured through the processor and greedy `generate` in float32, on scenes that no stage has seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from vtokens.core.writing import write_text

from ...claims import named
from ...compare import COMPARE
from ...evaluation import Accuracy, evaluate
from ...kinds import KINDS, POPE
from ...photographs import check_photographs
from ...relations import HARDER
from ...sampling import examples
from ...signs import READING
from ...smol.folder import smol_folder
from ...stories import STORIES
from ..report import chair, false_positives
from . import export
from .run import seeing

#: The least share of right answers on the test split.
TARGETS = {
    "exist": 0.97, "where": 0.95, "at": 0.93, "colour_at": 0.93, "colour_of": 0.93, "shape_of": 0.93,
    "count_all": 0.85, "count_colour": 0.85, "count_shape": 0.85, "caption": 0.70,
}  # fmt: skip
_ADVERSARIAL, _RANDOM = 0.2, 0.03  # how often 'yes' is said to negatives: at least, at most
_BATCH = 50


def measure(folder: Path, n: int) -> dict[str, Any]:
    """Every figure with `n` examples: accuracy in words, in sentences and on photographs, harder kinds, POPE, CHAIR.

    Raises:
        MissingExtra: the photographs are not installed; said before anything is measured.
    """
    check_photographs("test")
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    found: dict[str, Any] = {
        "words": evaluate(model, processor, examples("test", n * len(KINDS)), _BATCH),
        "sentences": evaluate(model, processor, examples("test", n * len(KINDS), seed=1, sentences=True), _BATCH),
        "photographs": evaluate(model, processor, examples("test", n * len(KINDS), world="photographs"), _BATCH),
        "harder": {
            kind: figure
            for kinds in (HARDER, READING, COMPARE, STORIES)
            for kind, figure in evaluate(
                model, processor, examples("test", n * len(kinds), kinds=kinds), _BATCH
            ).items()
        },
    }
    found |= {kind: false_positives(model, processor, kind, 2 * n).get("all") for kind in POPE}
    found["chair_story"] = chair(model, processor, examples("test", n, seed=2, kinds=STORIES), named)
    found["chair"] = chair(model, processor, examples("test", n, seed=2, kinds=["caption"]))
    return found


def page(found: dict[str, Any], out: Path) -> str:
    """The figures as Markdown, with what misses its target, and the stages that led there from validation.csv."""
    lines = ["| kind | words | sentences | target | on photographs |", "|---|---|---|---|---|"]
    words: dict[str, Accuracy] = found["words"]
    for kind in [*KINDS, "overall"]:
        target = TARGETS.get(kind)
        said = "" if target is None else f"{target:.2f}" + (" (missed)" if words[kind].share < target else "")
        lines.append(f"| {kind} | {words[kind]} | {found['sentences'][kind]} | {said} | {found['photographs'][kind]} |")
    lines += [f"| {kind} | {found['harder'][kind]} | | | |" for kind in HARDER + READING + COMPARE + STORIES]
    lines += ["", "| negatives | says yes | target |", "|---|---|---|"]
    for kind, bound in zip(POPE, (f"at most {_RANDOM}", "", f"at least {_ADVERSARIAL}"), strict=True):
        lines.append(f"| {kind.removeprefix('pope_')} | {found[kind]} | {bound} |")
    objects, captions = found["chair"]
    lines += ["", f"CHAIR: {objects} of the objects named, {captions} of the captions.", ""]
    objects, captions = found["chair_story"]
    lines += [
        f"CHAIR of captions of several sentences: {objects} of the objects named, {captions} of the captions.",
        "",
    ]
    rows = [line.split(",") for line in (out / "validation.csv").read_text().splitlines()]
    lines += ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(row) + " |" for row in rows[1:]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Export, measure, and leave adapter.safetensors and report.md in the run's folder."""
    parser = argparse.ArgumentParser(prog="python -m vtokens.scenes.train.smol.report", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder given to the recipe")
    parser.add_argument("--stage", choices=seeing(), default=seeing()[-1], help="whose checkpoint is measured")
    parser.add_argument("--examples", type=int, default=300, help="examples a figure")
    args = parser.parse_args()
    adapter = args.out / "adapter.safetensors"
    export.write(args.out / f"{args.stage}.safetensors", adapter)
    write_text(args.out / "report.md", page(measure(smol_folder(adapter), args.examples), args.out))
    print((args.out / "report.md").read_text())


if __name__ == "__main__":
    main()
