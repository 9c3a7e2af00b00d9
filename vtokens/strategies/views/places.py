"""Where rows and keys of an attention call stand, and the pictures of a prompt as segments that can change places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vtokens.core.layout import Layout
from vtokens.core.on_device import on_device

_FAR = 1 << 40
"""A position behind every other."""


@dataclass(frozen=True)
class Segments:
    """The pictures of samples that have several, each a segment: all from its first position to its last one.

    They are stacked, as if each stood right before what follows the last of them, with all of them in front of the
    text that stands between two: then nothing tells which came first.

    Attributes:
        number: int64 (B, W), the segment of each position, -1 for text.
        at: int64 (C, B, W), rotary positions; C is 3 under M-RoPE, else 1.
        shift: int64 (B, W), how many positions later each one stands when the segments are stacked.
        behind: bool (B, W), from the first segment of a sample on.
        lengths: int64 (B, S), how many rotary positions each segment takes; 0 where a sample has fewer.
        alone: bool (B,), samples that have no segments, since they have fewer than two pictures.
        mixed: whether any sample is alone.
    """

    number: Tensor
    at: Tensor
    shift: Tensor
    behind: Tensor
    lengths: Tensor
    alone: Tensor
    mixed: bool

    @staticmethod
    def of(layout: Layout, positions: Tensor) -> Segments | None:
        """Those of a pass; None if no sample brings two pictures.

        Args:
            layout: of all that was fed.
            positions: int64 (C, B or 1, N), its rotary positions.
        """
        (batch, length), device = layout.image.shape, layout.image.device
        pictures = Counter(layout.owner)
        several = [pictures[row] > 1 for row in range(batch)]
        if not any(several):
            return None
        number, counted = list[int](), Counter[int]()
        for row in layout.owner:
            number.append(counted[row] if several[row] else -1)
            counted[row] += 1
        image = torch.where(layout.image < 0, -1, on_device(number, device)[layout.image.clamp(min=0)])
        at, place = positions.to(device).expand(-1, batch, -1), torch.arange(length, device=device)
        mine = image[:, None] == torch.arange(max(number) + 1, device=device)[:, None]
        first = torch.where(mine, place, length).amin(-1, keepdim=True)  # (B, S, 1)
        last = torch.where(mine, place, -1).amax(-1, keepdim=True)
        inside, there = (place >= first) & (place <= last), last[..., 0] >= 0
        low = torch.where(inside, at.amin(0)[:, None], _FAR).amin(-1)
        # What follows a picture begins where the model says so, which for some videos is before their last frame.
        follows = (last + 1).clamp(max=length - 1)[..., 0]
        followed = (last[..., 0] + 1 < length) & layout.valid.gather(1, follows)
        high = torch.where(inside, at.amax(0)[:, None], -1).amax(-1) + 1
        high = torch.where(followed, at.amin(0).gather(1, follows), high)
        lengths = torch.where(there, high - low, 0)
        end = torch.where(there, low, _FAR).amin(1, keepdim=True) + lengths.sum(1, keepdim=True)
        found = torch.where(inside.any(1), inside.long().argmax(1), -1)
        behind = place >= first.amin(1)
        between = (lengths[..., None] * (place < first)).sum(1) * behind
        shift = torch.where(found < 0, between, (end - high).gather(1, found.clamp(min=0)))
        alone = on_device([not one for one in several], device)
        return Segments(found, at, shift, behind, lengths, alone, not all(several))

    def seen(self, index: Tensor, real: Tensor | None) -> Segments:
        """The same at the columns `index` (B, W) of what was fed; `real` is False on padding, None if there is none."""
        number, shift, behind = (part.gather(1, index) for part in (self.number, self.shift, self.behind))
        if real is not None:
            number, behind = number.masked_fill(~real, -1), behind & real
        at = self.at.gather(2, index.expand(len(self.at), -1, -1))
        return replace(self, number=number, shift=shift, behind=behind, at=at)


@dataclass(frozen=True)
class Places:
    """How far queries and keys of an attention call are turned.

    Attributes:
        cos, sin: float32 (B, W, D), of the angles by which each row of this pass was turned.
        turn: from int64 positions (B, M), or (C, B, M) as `Segments.at`, to float32 cosines and sines (B, M, D) of the
            angles of a row that stands there. A row that was turned to p and is turned by d stands at p + d.
        axes: C.
        segments: the pictures of this pass, at its rows; None if no sample brings two.
    """

    cos: Tensor
    sin: Tensor
    turn: Callable[[Tensor], tuple[Tensor, Tensor]]
    axes: int
    segments: Segments | None

    def rows(self, rows: Sequence[int]) -> Places:
        """What some samples of the batch have of it."""
        index = torch.tensor(rows, device=self.cos.device)
        own = self.segments
        if own is not None:
            own = Segments(
                own.number[index], own.at[:, index], own.shift[index], own.behind[index], own.lengths[index],
                own.alone[index], own.mixed,
            )  # fmt: skip
        return replace(self, cos=self.cos[index], sin=self.sin[index], segments=own)
