"""One image or video as the decoder sees it: its views, and the grid cell of each of its positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np


@dataclass(frozen=True)
class Picture:
    """One image or video as the decoder sees it, on the host.

    Attributes:
        modality: "image" or "video".
        grids: (t, h, w) of each view, in sequence order (AnyRes has a thumbnail and a tiled view).
        view, t, y, x: int64 arrays (n,) with the view and the grid cell of each placeholder position;
            -1 marks positions that hold no feature of the picture (newline or class tokens).
        tiled: whether views are parts of it and it is not known where in it they lie. Else each view shows all of it.
    """

    modality: str
    grids: tuple[tuple[int, int, int], ...]
    view: np.ndarray
    t: np.ndarray
    y: np.ndarray
    x: np.ndarray
    tiled: bool = field(default=False, kw_only=True)

    def __len__(self) -> int:
        return len(self.view)

    def __repr__(self) -> str:
        return f"<Picture: {self.modality} of {self.tokens} visual tokens, (t, h, w) of its views {list(self.grids)}>"

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Positions from a cell to the one below it, and to the same one of the next frame, in any view."""
        found = set()
        for number in range(len(self.grids)):
            inside = np.flatnonzero(self.view == number)
            t, y = self.t[inside], self.y[inside]
            for later in ((t == t.min(initial=0)) & (y == y.min(initial=0) + 1), t == t.min(initial=0) + 1):
                if later.any():
                    found.add(int(inside[later.argmax()] - inside[0]))
        return tuple(sorted(found))

    @property
    def tokens(self) -> int:
        """Visual tokens, without newline and class tokens."""
        return int((self.view >= 0).sum())

    @staticmethod
    def of(grids: Sequence[tuple[int, int, int]], newline: Sequence[bool], modality: str = "image") -> Picture:
        """A picture from its views in raster order; `newline[i]` appends one extra column to view i."""
        views = tuple((int(t), int(h), int(w)) for t, h, w in grids)
        return Picture(modality, views, *_planes(views, tuple(newline)).copy())

    @staticmethod
    def joined(tiles: Sequence[Picture]) -> Picture:
        """One picture of tiles that stand one behind the other; the views of each are views of it."""
        grids = tuple(grid for tile in tiles for grid in tile.grids)
        starts = np.cumsum([0, *(len(tile.grids) for tile in tiles)])
        views = [np.where(tile.view < 0, -1, tile.view + start) for tile, start in zip(tiles, starts, strict=False)]
        planes = [np.concatenate([getattr(tile, name) for tile in tiles]) for name in ("t", "y", "x")]
        return Picture(tiles[0].modality, grids, np.concatenate(views), *planes, tiled=len(tiles) > 1)

    def framed(self, before: int) -> Picture:
        """The same picture with `before` featureless positions in front of each frame of its single view."""
        frames = self.grids[0][0]
        planes = [
            np.pad(plane.reshape(frames, -1), ((0, 0), (before, 0)), constant_values=-1).ravel()
            for plane in (self.view, self.t, self.y, self.x)
        ]
        return Picture(self.modality, self.grids, *planes)

    def padded(self, before: int = 0, after: int = 0) -> Picture:
        """The same picture with `before`/`after` featureless positions around it."""
        if not before and not after:
            return self
        planes = [np.pad(p, (before, after), constant_values=-1) for p in (self.view, self.t, self.y, self.x)]
        return Picture(self.modality, self.grids, *planes, tiled=self.tiled)

    def check_drawn(self) -> None:
        """Raise `ValueError` if nobody knows where in the image a cell lies."""
        if self.tiled:
            raise ValueError(
                f"the processor cut this image into {len(self.grids)} tiles, and the model is not told where in it "
                "they lay, so that nothing can be drawn over it or cut out of it: let it cut no tiles "
                "(do_image_splitting=False, crop_to_patches=False, do_pan_and_scan=False)"
            )


@lru_cache(maxsize=16)  # asked for in every prefill, of pictures that are often of one size
def _planes(grids: tuple[tuple[int, int, int], ...], newline: tuple[bool, ...]) -> np.ndarray:
    parts = []
    for index, ((t, h, w), extra) in enumerate(zip(grids, newline, strict=True)):
        cell = np.stack(np.meshgrid(np.arange(t), np.arange(h), np.arange(w + extra), indexing="ij"), -1)
        cell = cell.reshape(-1, 3)
        plane = np.concatenate([np.full((len(cell), 1), index), cell], axis=1)
        plane[cell[:, 2] >= w] = -1
        parts.append(plane)
    return np.concatenate(parts).astype(np.int64).T


def side(size: int | Sequence[int]) -> int:
    """The side of a square, which configs write as a number or as its height and width."""
    return size if isinstance(size, int) else int(size[0])
