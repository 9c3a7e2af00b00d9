"""What the language model is shown of pictures: patches of the code, or of tower and projector, all or some of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...render import patch_classes
from ...world import Scene
from ..pretraining import thin
from .code import PATCHES, Code, cell_classes, rows_of_cells
from .course import Stage

BLANKS = 4
_NOISE = 0.01


def classes_of(scenes: list[Scene], stage: Stage) -> Tensor:
    """What each patch shows, int (B, 144): the patch itself, or its whole cell."""
    return torch.from_numpy(patch_classes(scenes).reshape(len(scenes), -1)) if stage.patches else cell_classes(scenes)


def blend_at(stage: Stage, share: float) -> tuple[float, float]:
    """How superposed the code is once `share` of the stage is done: the first of three patches goes ahead.

    The last tenth of the stage stays at its end.
    """
    low, high = stage.blend
    gone = min(1.0, share / 0.9)
    first, others = min(1.0, gone / 0.4), max(0.0, (gone - 0.4) / 0.6)
    return low + (high - low) * first, low + (high - low) * others


def symbols(
    code: Code, scenes: list[Scene], stage: Stage, share: float, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Some patches of each picture in the code, with their positions: (B, n, hidden) and int (B, n)."""
    classes = classes_of(scenes, stage)
    if stage.patches:
        count = 12 + int(torch.randint(0, 25, (), generator=draw))
        kept = thin(classes, count, draw)
    else:
        kept = rows_of_cells(classes, BLANKS, draw)
    vectors = code(classes, blend_at(stage, share))
    vectors = vectors.gather(1, kept[..., None].expand(-1, -1, vectors.shape[-1]))
    return vectors + _NOISE * torch.randn(vectors.shape, generator=draw), kept


def some(classes: Tensor, draw: torch.Generator | None) -> Tensor:
    """Which patches of rendered pictures are shown, sorted int (B, n): in half of the steps 24 to 48, else all.

    Every object is shown. draw: None for all.
    """
    if draw is None or float(torch.rand((), generator=draw)) < 0.5:
        return torch.arange(PATCHES).expand(len(classes), -1)
    return thin(classes, 24 + int(torch.randint(0, 25, (), generator=draw)), draw)


def squeezed(kept: Tensor, luck: float) -> tuple[Tensor, int]:
    """Positions of the kept patches and the first behind them; one picture in five has them closed up."""
    if luck < 0.2:
        return torch.arange(kept.shape[1]).expand(len(kept), -1), kept.shape[1]
    return kept, PATCHES


def generator(*numbers: int) -> torch.Generator:
    """A stream that belongs to these numbers, so that a step draws the same whenever it is made."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
