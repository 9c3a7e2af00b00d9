"""The stages of the recipe: what learns in each, how long and how fast, and the loss of a step.

The tower learns to tell what each visual token shows, and the decoder, without pixels, to answer from vectors that
stand for tokens; these two can run side by side. Then the tower learns to give these vectors, and last both learn
together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..data import TrainingBatch
from .data import ClipBatch, make_clips, make_pictures
from .pupil import Pupil, answered, looked, missed, places, symbolic, twice

TOWER = ("qwen.model.visual", "head")
DECODER = ("qwen.model.language_model", "qwen.lm_head", "blank")
_SQUEEZED = 1 / 3  # share of the picture batches whose places are drawn together
_LOOK = 0.3  # what the head's loss weighs beside another one

Made = tuple[Any, ...]
Loss = tuple[Tensor, dict[str, float]]


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Args:
        steps, rate: steps of the optimiser, and the full learning rate.
        trained: beginnings of the names of what learns.
        make: the batches of a step, from a seed and the step.
        loss: of these, with the pupil and a generator.
        after: which stages left what, by beginnings of names.
    """

    name: str
    steps: int
    rate: float
    trained: tuple[str, ...]
    make: Callable[[int, int], Made]
    loss: Callable[[Pupil, Made, torch.Generator], Loss]
    after: dict[str, tuple[str, ...]] = field(default_factory=dict)


def _sights(seed: int, step: int) -> Made:
    return (
        make_pictures(seed, step * 32, 32, count=1, pixels=True),
        make_clips(seed, step * 4, 4, count=1, frames=16, pixels=True),
    )


def _seen(pupil: Pupil, made: Made) -> tuple[Tensor, Tensor]:
    pictures, clips = made
    pixels = torch.cat((twice(pictures.pixels), clips.pixels.flatten(0, 1)))
    return pupil.seen(pixels), torch.cat((pictures.patches, clips.patches.flatten(0, 1)))


def _look(pupil: Pupil, made: Made, generator: torch.Generator) -> Loss:
    return looked(pupil, *_seen(pupil, made))


def _regress(pupil: Pupil, made: Made, generator: torch.Generator) -> Loss:
    visual, patches = _seen(pupil, made)
    (miss, figures), (look, more) = missed(pupil, visual, patches), looked(pupil, visual, patches)
    return miss + _LOOK * look, figures | more


def _symbols(seed: int, step: int) -> Made:
    if step % 2:
        frames = (16, 8, 16, 32)[step // 2 % 4]
        return (make_clips(seed, step * 32, 20, count=12, frames=frames, pixels=False),)
    return (make_pictures(seed, step * 32, 32, count=20, pixels=False),)


def _read(pupil: Pupil, made: Made, generator: torch.Generator) -> Loss:
    (batch,) = made
    return answered(pupil, *symbolic(pupil, batch, generator), batch)


def _pixels(seed: int, step: int) -> Made:
    if step % 2:
        frames = (16, 16, 16, 8)[step // 2 % 4]
        size = 64 // frames
        return (make_clips(seed, step * 8, size, count=12, frames=frames, pixels=True),)
    return (make_pictures(seed, step * 16, 16, count=20, pixels=True),)


def _together(pupil: Pupil, made: Made, generator: torch.Generator) -> Loss:
    batch: TrainingBatch | ClipBatch = made[0]
    clips = isinstance(batch, ClipBatch)
    steps = batch.patches.shape[1] if clips else 1
    size, luck = len(batch.patches), torch.rand(2, generator=generator).tolist()
    visual = pupil.seen(batch.pixels.flatten(0, 1) if clips else twice(batch.pixels))
    where = places(steps, visual.device)
    if not clips and luck[0] < _SQUEEZED:
        where = (where * (0.08 + 0.92 * luck[1])).long()
    look, shown = looked(pupil, visual, batch.patches.view(len(visual), -1))
    loss, figures = answered(pupil, visual.view(size, -1, visual.shape[-1]), where[:, None].expand(-1, size, -1), batch)
    return loss + _LOOK * look, figures | {"shapes": shown["shapes"]}


COURSE = (
    Stage("look", 800, 3e-3, TOWER, _sights, _look),
    Stage("symbols", 3000, 3e-3, DECODER, _symbols, _read),
    Stage("regression", 300, 2e-3, TOWER, _sights, _regress, {"look": TOWER, "symbols": DECODER}),
    Stage("together", 2000, 1.5e-3, (*TOWER, *DECODER), _pixels, _together, {"regression": (*TOWER, *DECODER)}),
)
