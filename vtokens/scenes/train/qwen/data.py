"""Training batches of clips, beside those of pictures (`vtokens.scenes.train.data`), by number: what is drawn follows
from seed, stage and step, so that a run which was stopped goes on with what it had not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ...clips.questions import KINDS, ask
from ...clips.render import frames_of, token_classes
from ...clips.world import STEP, ClipScene, clip_stream, draw_clip
from ...qwen.model import TOKEN
from ...world import IMAGE
from ..data import TrainingBatch, make_batch, pack

LENGTH = 15  # tokens of the longest question about a clip with its answer
_WEIGHTS = np.array([2, 1.5, 3.5, 2, 2, 1]) / 12  # how often each of KINDS is asked
_ASKED = 9  # the stream of a clip's questions


@dataclass
class ClipBatch:
    """B clips of S steps with Q questions each; int64 tensors unless said otherwise.

    pixels: uint8 (B, S, 2, 96, 96, 3), empty for symbolic batches. patches: (B, S, 64) class of each visual token.
    ids, labels: (B, Q, 15). kinds: (B, Q) index into KINDS of clips.
    """

    pixels: torch.Tensor
    patches: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor
    kinds: torch.Tensor

    def to(self, device: torch.device) -> ClipBatch:
        return ClipBatch(**{k: v.to(device, non_blocking=True) for k, v in vars(self).items()})


def _questions(clip: ClipScene, count: int) -> tuple[list[tuple[str, str]], list[int]]:
    rng = clip_stream(clip.split, clip.seed, clip.index, clip.attempt, _ASKED)
    pairs: list[tuple[str, str]] = []
    kinds: list[int] = []
    while len(pairs) < count:
        kind = int(rng.choice(len(KINDS), p=_WEIGHTS))
        found = ask(clip, KINDS[kind], rng)
        if found is not None:
            pairs.append(found)
            kinds.append(kind)
    return pairs, kinds


def make_clips(seed: int, first: int, size: int, *, count: int, frames: int, pixels: bool) -> ClipBatch:
    """Batch of the training clips first .. first + size - 1 with `count` questions each."""
    clips = [draw_clip("train", seed, first + i, frames) for i in range(size)]
    asked = [_questions(clip, count) for clip in clips]
    ids, labels = pack([pair for pairs, _ in asked for pair in pairs], LENGTH)
    shape = (size, frames // STEP, STEP, IMAGE, IMAGE, 3)
    shown = np.stack([frames_of(c) for c in clips]).reshape(shape) if pixels else np.zeros((size, 0), dtype=np.uint8)
    patches = np.stack([token_classes(clip, TOKEN) for clip in clips])
    return ClipBatch(
        torch.from_numpy(shown),
        torch.from_numpy(patches).flatten(2),
        torch.from_numpy(ids).view(size, count, LENGTH),
        torch.from_numpy(labels).view(size, count, LENGTH),
        torch.tensor([numbers for _, numbers in asked]),
    )


def make_pictures(seed: int, first: int, size: int, *, count: int, pixels: bool) -> TrainingBatch:
    """Batch of training pictures, the classes being those of visual tokens."""
    return make_batch(seed, first, size, count=count, pixels=pixels, annotated=False, patch=TOKEN)


class _Numbered(Dataset):
    def __init__(self, make: Callable[[int], Any], start: int, end: int) -> None:
        self.make, self.start, self.end = make, start, end

    def __len__(self) -> int:
        return self.end - self.start

    def __getitem__(self, number: int) -> Any:
        return self.make(self.start + number)


def numbered(make: Callable[[int], Any], start: int, end: int, workers: int = 1) -> Iterator[Any]:
    """make(start), ..., make(end - 1), made beside the training loop by `workers` processes (0: in the loop itself)."""
    data = _Numbered(make, start, end)
    return iter(DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None))
