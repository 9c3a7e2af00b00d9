"""Draws the README's picture: what strategies keep at 10%, and what the model answers: `python tools/kept.py`.

The scene is the one that `vtokens demo` draws: of 220 held-out questions the first with a short answer and five things
in its picture. Nothing else was looked at before it was taken. `random` is there to show that it matters which tokens
are kept. Two lines of three, so that titles can be read where a page is 390 pixels wide.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image

import vtokens
from vtokens import scenes
from vtokens.cli.demo import _batch, _busy, kept
from vtokens.core.overlay import seen_image
from vtokens.core.writing import write_picture

PICTURE = Path(__file__).parent.parent / "docs" / "figures" / "kept-tenth.png"
STRATEGIES, KEEP = ("random", "cls", "todre", "visionzip", "census"), 0.1


def picture(model: Any, processor: Any, question: Any) -> Image.Image:
    """What the model sees, and what each strategy keeps of it: dropped patches dark, answers above."""
    figure = Figure(figsize=(7.2, 6.7), facecolor="white", layout="constrained")
    seen, batch = seen_image(processor, question.image), _batch(processor, [question])
    first, *others = figure.subplots(2, 3).flat
    first.imshow(seen.resize((480, 480), Image.Resampling.NEAREST))
    first.set_title("all tokens\n", fontsize=15)
    for axis, spec in zip(others, STRATEGIES, strict=True):
        shown, tokens, answer = kept(model, processor, seen, batch, spec, KEEP)
        right = answer == question.answer
        axis.imshow(shown)
        axis.set_title(f"{spec}\n{answer}{'' if right else ': wrong'}", fontsize=15, color="k" if right else "tab:red")
    for axis in (first, *others):
        axis.set_axis_off()
    everything = int((batch["input_ids"] == model.config.image_token_id).sum())
    figure.suptitle(f"{question.question}\n{tokens:.0f} of {everything} visual tokens are kept", fontsize=16)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return Image.open(buffer).convert("RGB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    model, processor = vtokens.load("scenes-llava", strategy="none")
    write_picture(PICTURE, picture(model.eval(), processor, _busy(scenes.examples("test", n=220))))
