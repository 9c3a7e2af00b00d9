"""Training batches: scenes, their pixels and patch classes, and some twenty question-answer pairs about each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from ..kinds import KINDS
from ..lots import draw_scene
from ..questions import ask
from ..qwen.model import WORDS
from ..render import patch_classes, render
from ..world import PAIRS, PATCH, Scene, stream

SHORT = KINDS[:-1]
_WEIGHTS = np.array([5, 2, 3, 1, 1.5, 1.5, 1.5, 2, 2.5, 5])  # how often each kind of SHORT is asked
LENGTH = 11  # tokens of the longest short question with its answer
CAPTION = 28  # tokens of a caption of eight objects with its question; the rare longer ones are not trained
_IDS = {w: i for i, w in enumerate(WORDS)}


@dataclass
class TrainingBatch:
    """One training batch of B scenes with Q short questions each; int64 tensors unless said otherwise.

    pixels: uint8 (B, 96, 96, 3), empty for symbolic batches. patches: (B, 144) class of each patch.
    ids, labels: (B, Q, 11), labels -100 outside the answer. kinds: (B, Q) index into KINDS.
    caption_ids, caption_labels: (B, 1, 28). presence: float32 (B, 36), which classes are visible.
    """

    pixels: torch.Tensor
    patches: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor
    kinds: torch.Tensor
    caption_ids: torch.Tensor
    caption_labels: torch.Tensor
    presence: torch.Tensor

    def to(self, device: torch.device) -> TrainingBatch:
        return TrainingBatch(**{k: v.to(device, non_blocking=True) for k, v in vars(self).items()})


@lru_cache(maxsize=4096)
def tokens(text: str) -> tuple[int, ...]:
    """Token numbers of a text, as the shipped tokenizers would give them, without their start-up cost."""
    return tuple(_IDS[w] for w in re.findall(r"\w+|[^\w\s]+", text.lower()))


def pack(pairs: list[tuple[str, str]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs as (ids, labels), each (n, length): 'question ASSISTANT: answer'; the label is the next token.

    A pair longer than `length` is left out: its labels are all -100.
    """
    ids = np.full((len(pairs), length), _IDS["<pad>"], dtype=np.int64)
    labels = np.full((len(pairs), length), -100, dtype=np.int64)
    for row, (question, answer) in enumerate(pairs):
        q, a = tokens(question), tokens(answer)
        if len(q) + 1 + len(a) > length:
            continue
        ids[row, : len(q) + 1 + len(a)] = (*q, _IDS["ASSISTANT:"], *a)
        labels[row, len(q) : len(q) + 1 + len(a)] = (*a, _IDS["<eos>"])
    return ids, labels


def _questions(scene: Scene, count: int, annotated: bool) -> tuple[list[tuple[str, str]], list[int], tuple[str, str]]:
    rng = stream(scene.split, scene.seed, scene.index, scene.attempt, 9)
    drawn = rng.choice(len(SHORT), size=3 * count, p=_WEIGHTS / _WEIGHTS.sum())
    pairs, kinds = [], []
    # Any scene carries an existence question: it fills up what the draws left open.
    for kind in [*drawn, *[0] * count]:
        found = ask(scene, SHORT[kind], rng, annotated)
        if found is not None:
            pairs.append(found)
            kinds.append(int(kind))
        if len(pairs) == count:
            break
    caption = ask(scene, "caption", rng, annotated)
    assert caption is not None
    return pairs, kinds, caption


def _scene(seed: int, index: int, triggered: bool) -> Scene:
    """Training scene `index`; with `triggered`, every other one is redrawn until a trigger is in it."""
    tries = 50 if triggered and index % 2 else 1
    return redrawn(seed, index, lambda scene: any(t.number == p.trigger for t in scene.visible for p in PAIRS), tries)


def redrawn(seed: int, index: int, wanted: Callable[[Scene], bool], tries: int) -> Scene:
    """Training scene `index`, drawn again until it is as `wanted`; after so many tries as it is then."""
    for attempt in range(tries):
        scene = draw_scene("train", seed, index, attempt)
        if wanted(scene):
            break
    return scene


def make_batch(
    seed: int,
    first: int,
    size: int,
    *,
    count: int,
    pixels: bool,
    annotated: bool,
    triggered: bool = False,
    patch: int = PATCH,
) -> TrainingBatch:
    """Batch of the training scenes first .. first + size - 1 with `count` short questions each.

    annotated: the annotation is the truth, invisible partners too. triggered: every other scene holds a trigger. patch:
    pixels on a side of what has a class.
    """
    scenes = [_scene(seed, first + i, triggered) for i in range(size)]
    asked = [_questions(s, count, annotated) for s in scenes]
    ids, labels = pack([p for pairs, _, _ in asked for p in pairs], LENGTH)
    caption_ids, caption_labels = pack([c for _, _, c in asked], CAPTION)
    presence = np.zeros((size, 36), dtype=np.float32)
    for row, scene in enumerate(scenes):
        presence[row, [t.number for t in scene.visible]] = 1
    return TrainingBatch(
        torch.from_numpy(render(scenes) if pixels else np.zeros((size, 0), dtype=np.uint8)),
        torch.from_numpy(patch_classes(scenes, patch).reshape(size, -1)),
        torch.from_numpy(ids).view(size, count, LENGTH),
        torch.from_numpy(labels).view(size, count, LENGTH),
        torch.tensor([k for _, k, _ in asked]),
        torch.from_numpy(caption_ids)[:, None],
        torch.from_numpy(caption_labels)[:, None],
        torch.from_numpy(presence),
    )


class _Stream(IterableDataset):
    def __init__(self, seed: int, size: int, kwargs: dict) -> None:
        self.seed, self.size, self.kwargs = seed, size, kwargs

    def __iter__(self) -> Iterator[TrainingBatch]:
        worker = torch.utils.data.get_worker_info()
        number, step = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            yield make_batch(self.seed, number * self.size, self.size, **self.kwargs)
            number += step


def batches(
    seed: int, size: int, *, count: int = 20, pixels: bool = True, workers: int = 1, **kinds: bool
) -> Iterator[TrainingBatch]:
    """Endless training batches, made beside the training loop by `workers` processes (0: in the loop itself).

    kinds: annotated and triggered, see `make_batch`.
    """
    data = _Stream(seed, size, {"count": count, "pixels": pixels, "annotated": False, **kinds})
    return iter(DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None))
