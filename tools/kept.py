"""Draws the README's picture: what strategies keep at 10%, and what the model answers: `python tools/kept.py`.

The scene is the one that `vtokens demo` draws: of 220 held-out questions the first with a short answer and five things
in its picture. Nothing else was looked at before it was taken. `random` is there to show that it matters which tokens
are kept.
"""

from __future__ import annotations

from pathlib import Path

import torch

import vtokens
from vtokens import scenes
from vtokens.cli.demo import _busy, kept_picture
from vtokens.core.writing import write_picture

PICTURE = Path(__file__).parent.parent / "docs" / "figures" / "kept-tenth.png"
STRATEGIES = ("random", "cls", "todre", "visionzip", "census")

if __name__ == "__main__":
    torch.set_num_threads(1)
    model, processor = vtokens.load("scenes-llava", strategy="none")
    question = _busy(scenes.examples("test", n=220))
    write_picture(PICTURE, kept_picture(model.eval(), processor, question, STRATEGIES, (0.1,)))
