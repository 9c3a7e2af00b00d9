"""The picture of docs/start.md is what its command draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.pages import shell
from tests.pages.blocks import ROOT, blocks
from vtokens import scenes

PAGE = ROOT / "docs" / "start.md"


def test_the_kept_patches_are_those_of_the_picture(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    scenes.examples("test", n=1, kinds=["where"])[0].image.save("scene.png")
    (words,) = [
        line
        for block in blocks(PAGE)
        if block.kind == "shell"
        for line in shell.lines(block.text)
        if line[:3] == ["vtokens", "run", "scene.png"]
    ]
    shell.run(words, monkeypatch)
    drawn, shown = (
        np.asarray(Image.open(path).convert("RGB"), dtype=float)
        for path in (words[words.index("--overlay") + 1], PAGE.parent / "figures" / "start-kept.png")
    )
    assert drawn.shape == shown.shape
    assert np.abs(drawn - shown).max() <= 2
    patch = drawn.shape[0] // 12
    bright = drawn.reshape(12, patch, 12, patch, 3).max((1, 3, 4)) > 80
    assert bright.sum() == 14
