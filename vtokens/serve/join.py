"""Prompts that a processor made one by one, as the one batch that it would have made of them.

Families lay pictures out in many ways: one after the other, row by row with room for the most that a row has, tiles of
each picture padded to the most that one has, patches in a single long strip. The processor itself is asked once, with
a few drawn pictures: along which axis an input grows, what stands in the room that is left, and whether the batch made
here is its own, number for number. Where it is not, prompts with such inputs run one by one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vtokens.core.prompts import POSITION_KINDS, encode_prompts, question_prompt
from vtokens.video.clip import Clip, arguments

Inputs = Mapping[str, Tensor]
Shown = Callable[[Sequence[Sequence[Any]]], dict[str, Any]]
BY_POSITION = ("input_ids", "attention_mask", *POSITION_KINDS, "cross_attention_mask")
"""Inputs with an entry for each position of the prompt."""
_SIZES = (((64, 48),), ((32, 96), (112, 80)), ())
"""Pictures of the prompts that the processor is asked with; of videos the first number tells the frames."""


@dataclass(frozen=True)
class _Grows:
    """How an input of several prompts is laid out.

    Attributes:
        axis: along which theirs follow each other.
        filled: prompts without pictures have one too, of nothing but padding.
        padding: what stands where one is larger than another in the other axes; None if they have to be equal there.
    """

    axis: int
    filled: bool
    padding: float | None


class Joiner:
    """What makes one batch of several prompts.

    Args:
        processor: the model's.
    """

    def __init__(self, processor: Any) -> None:
        tokenizer = getattr(processor, "tokenizer", processor)
        pad = tokenizer.pad_token_id
        self._pad = tokenizer.eos_token_id if pad is None else pad
        self._grows: dict[str, _Grows] = {}
        for kind, draw, more in (("image", _picture, _images), ("video", _clip, _videos)):
            # Processors refuse what they are asked with in ways of their own.
            with contextlib.suppress(Exception):
                self._learn(processor, draw, kind, more)

    def joins(self, rows: Sequence[Inputs]) -> bool:
        """Whether the batch that these make is the one that the processor would have made of them."""
        for name in {name for row in rows for name in row} - {*BY_POSITION}:
            grows = self._grows.get(name)
            if grows is None or not all(isinstance(row[name], Tensor) for row in rows if name in row):
                return False
            shapes = {_others(row[name].shape, grows.axis) for row in rows if name in row}
            if len({len(shape) for shape in shapes}) > 1 or (grows.padding is None and len(shapes) > 1):
                return False
            if grows.filled and grows.padding is None and any(name not in row for row in rows):
                return False
        return True

    def join(self, rows: Sequence[Inputs]) -> dict[str, Tensor]:
        """One batch of prompts (`joins`), padded on the left up to the longest; padding of their own is taken off."""
        rows = [_unpadded(row) for row in rows]
        length = max(row["input_ids"].shape[1] for row in rows)
        batch = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            given = [row.get(name) for row in rows]
            if len(rows) == 1:
                batch[name] = rows[0][name]
            elif name in BY_POSITION:
                batch[name] = self._by_position(name, given, length)
            else:
                batch[name] = _follow(given, self._grows[name])
        return batch

    def _by_position(self, name: str, given: Sequence[Tensor | None], length: int) -> Tensor:
        there = [part for part in given if part is not None]
        tail = [max(sizes) for sizes in zip(*(part.shape[2:] for part in there), strict=True)]
        fill = self._pad if name == "input_ids" else 0
        whole = there[0].new_full((len(given), length, *tail), fill)
        for row, part in zip(whole, given, strict=True):
            if part is not None:
                row[(slice(length - part.shape[1], None), *(slice(size) for size in part.shape[2:]))] = part[0]
        return whole

    def _learn(self, processor: Any, draw: Callable[[tuple[int, int]], Any], kind: str, more: Shown) -> None:
        """Ask the processor for a few prompts, each by itself and all together.

        Args:
            processor: the processor.
            draw: makes a picture or video of a size.
            kind: "image" or "video".
            more: what hands those of each prompt to the processor.

        Raises:
            ValueError: what is made here is not what it makes. Whatever it raises itself.
        """
        groups = [[draw(size) for size in sizes] for sizes in _SIZES]
        texts = [question_prompt(processor, "What is this?", [kind] * len(group)) for group in groups]
        alone = [
            _asked(processor, text, more([group]) if group else {}) for text, group in zip(texts, groups, strict=True)
        ]
        whole = dict(encode_prompts(processor, texts, **more(groups)))
        found = {}
        for name in {name for row in alone for name in row} - {*BY_POSITION}:
            parts = [row[name] for row in alone if name in row]
            if (grows := _layout(parts, whole[name], len(texts))) is not None:
                found[name] = grows
        before, self._grows = self._grows, {**self._grows, **found}
        made = self.join(alone) if self.joins(alone) else {}
        if {*made} != {*whole} or not all(torch.equal(made[name], whole[name]) for name in made):
            self._grows = before
            raise ValueError("the batch is another one than the processor's")


def _images(groups: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {"images": groups}


def _videos(groups: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return arguments([clip for group in groups for clip in group])


def _picture(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(_pixels(size[1], size[0]))


def _clip(size: tuple[int, int]) -> Clip:
    """A video as long as a picture would be wide: many processors without torchvision take frames of few sizes."""
    frames = _pixels(size[0] // 16, 96, 96)
    numbers = [*range(len(frames))]
    return Clip(
        frames, {"total_num_frames": len(frames), "fps": 2.0, "width": 96, "height": 96, "frames_indices": numbers}
    )


def _pixels(*sizes: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*sizes, 3), dtype=np.uint8)


def _asked(processor: Any, text: str, shown: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(encode_prompts(processor, [text], **shown))
    except TypeError:
        if shown:
            raise
        return dict(encode_prompts(processor.tokenizer, [text]))  # some ask for pictures wherever there is text


def _layout(parts: Sequence[Tensor], whole: Tensor, rows: int) -> _Grows | None:
    """How parts are laid out in a whole; None if it cannot be told."""
    if not all(isinstance(part, Tensor) and part.dim() == whole.dim() for part in (*parts, whole)):
        return None
    for axis in range(whole.dim()):
        filled = axis == 0 and whole.shape[0] == rows > len(parts) and all(len(part) == 1 for part in parts)
        if not filled and sum(part.shape[axis] for part in parts) != whole.shape[axis]:
            continue
        grows = _Grows(axis, filled, 0)
        given = [*parts, *([None] * (rows - len(parts)))]
        marks = _follow([None if part is None else torch.ones_like(part) for part in given], grows)
        if marks.shape != whole.shape:
            continue
        rest = whole[marks == 0].unique().tolist()
        if len(rest) > 1:
            return None
        return replace(grows, padding=rest[0] if rest else None)
    return None


def _follow(given: Sequence[Tensor | None], grows: _Grows) -> Tensor:
    """Parts one after the other along an axis, padded at the end of the others; None has no place, or an empty one."""
    there = [part for part in given if part is not None]
    sizes = [max(sizes) for sizes in zip(*(part.shape for part in there), strict=True)]
    parts = [*given] if grows.filled else there
    lengths = [1 if part is None else part.shape[grows.axis] for part in parts]
    sizes[grows.axis] = sum(lengths)
    whole = there[0].new_full(sizes, grows.padding or 0)
    for part, place in zip(parts, whole.split(lengths, grows.axis), strict=True):
        if part is not None:
            place[tuple(slice(size) for size in part.shape)] = part
    return whole


def _others(shape: torch.Size, axis: int) -> tuple[int, ...]:
    return tuple(size for at, size in enumerate(shape) if at != axis)


def _unpadded(row: Inputs) -> dict[str, Tensor]:
    """A prompt without padding of its own."""
    mask = row.get("attention_mask")
    if mask is None or bool(mask.all()):
        return dict(row)
    real = mask[0].bool()
    return {name: value[:, real] if name in BY_POSITION else value for name, value in row.items()}
