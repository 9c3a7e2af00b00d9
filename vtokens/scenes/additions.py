"""What harder worlds add to a scene: printed words, and a photograph in place of the grey ground."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sign:
    """A printed word, a letter a patch, in a strip of one or two cells of one row.

    row, column: of the cell with the first letter, from 0. cells: how many the strip has. line: which of the cell's
    three rows of patches it is printed in. start: patches of the strip before the first letter, 0-2. dark: light
    letters on a dark plate, else the other way round.
    """

    word: str
    row: int
    column: int
    cells: int
    line: int
    start: int
    dark: bool


@dataclass(frozen=True)
class Crop:
    """The part of a photograph that lies behind a scene.

    name: of the photograph (see `vtokens.scenes.photographs`). left, top: in its pixels. scale: pixels of the
    photograph on a side of one pixel of the scene. mirrored: left and right change places.
    """

    name: str
    left: int
    top: int
    scale: int
    mirrored: bool
