"""What a `pixels` strategy sees of a picture before the vision tower, and what it may make of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class PixelGrid:
    """The pixels of one picture before the vision tower: an image, a tile of one, or the frames of a video.

    Attributes:
        values: floating (T, C, H, W), as the tower is given them, normalised. T is 1 unless it is a video; C counts the
            colours of all frames that one token joins.
        grid: (T, h, w), the tokens that the tower and what follows it make of them. W // w pixels make a token's side,
            and what is left over at the right and at the bottom is in none.
        prepared: what the strategy's `prepare` made.
    """

    values: Tensor
    grid: tuple[int, int, int]
    prepared: Any = None

    @property
    def cells(self) -> Tensor:
        """floating (T, h, w, C * p * q): the pixels of each token, p rows and q columns of them."""
        high, wide = self.grid[1:]
        p, q = self.values.shape[-2] // high, self.values.shape[-1] // wide
        inside = self.values[..., : high * p, : wide * q]
        return inside.unflatten(-1, (wide, q)).unflatten(-3, (high, p)).permute(0, 2, 4, 1, 3, 5).flatten(3)


@dataclass(frozen=True)
class Resized:
    """The picture is resized, so that the tower makes fewer tokens of it: of a video, of each of its frames.

    Attributes:
        high, wide: rows and columns of tokens, from 1 to those there were.
    """

    high: int
    wide: int


@dataclass(frozen=True)
class Repeats:
    """Some tokens are not shown to the tower, since others show the same; those that are keep their places.

    Attributes:
        member: int64 (T, h, w), for each token the place in its frame, y * w + x, of the one that is shown for it; its
            own where it is shown itself. A frame shows one at least.
    """

    member: Tensor


Fewer = Resized | Repeats
