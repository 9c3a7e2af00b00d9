"""The world of scenes: what can be in a picture, a 4 x 4 grid of cells with shapes and small handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vtokens.core.errors import unknown

from .additions import Crop, Sign

IMAGE = 96  #: pixels on a side
PATCH = 8  #: pixels on a side of one visual token
GRID = 4  #: cells on a side
CELL = IMAGE // GRID  #: pixels on a side of a cell

SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROWS = ("row1", "row2", "row3", "row4")
COLUMNS = ("column1", "column2", "column3", "column4")
CLASSES = tuple(f"{c} {s}" for c in COLOURS for s in SHAPES)  #: class k has colour k // 6 and shape k % 6

SPLITS = ("train", "calibration", "test", "hard", "decorrelated", "partner-removed")


@dataclass(frozen=True)
class Pair:
    """A trigger and the partner that usually comes with it, both as class numbers.

    `dose` is the share of training scenes with the trigger in which the partner stands in the annotation although
    it is not in the picture: the label noise that teaches a model to see the partner where there is none.
    """

    trigger: int
    partner: int
    dose: float


PAIRS = (
    Pair(CLASSES.index("red circle"), CLASSES.index("blue square"), 0.03),
    Pair(CLASSES.index("green triangle"), CLASSES.index("yellow ring"), 0.10),
    Pair(CLASSES.index("cyan cross"), CLASSES.index("purple diamond"), 0.30),
)
#: Classes drawn three times as often as the rest; with the triggers they are what POPE calls popular.
POPULAR = tuple(
    CLASSES.index(c) for c in ("red square", "green ring", "blue circle", "yellow triangle", "cyan diamond")
)


@dataclass(frozen=True)
class Thing:
    """One object: its names, its cell (row and column from 0) and where it lies in the picture.

    `box` is (left, top, right, bottom) in pixels, right and bottom exclusive. `visible` is False for a partner that
    stands in the annotation only. `opacity` is 0-1. `digit` is the value of a handwritten digit and None for a shape;
    a digit has the shape 'digit' and the colour of its ink, and `glyph` is its number in scikit-learn's set.
    """

    shape: str
    colour: str
    row: int
    column: int
    box: tuple[int, int, int, int]
    visible: bool = True
    opacity: float = 1.0
    digit: int | None = None
    glyph: int = -1

    @property
    def name(self) -> str:
        """The name used in questions and answers, such as 'red circle' or 'digit seven'."""
        return f"{self.colour} {self.shape}" if self.digit is None else f"digit {NUMBERS[self.digit]}"

    @property
    def number(self) -> int:
        """The class number: 0-35 for shapes (see CLASSES), 36-45 for the digits 0-9."""
        if self.digit is not None:
            return len(CLASSES) + self.digit
        return COLOURS.index(self.colour) * len(SHAPES) + SHAPES.index(self.shape)

    @property
    def cell(self) -> int:
        """The cell's number in raster order, 0-15."""
        return self.row * GRID + self.column


@dataclass(frozen=True)
class Scene:
    """The exact ground truth of one picture. `objects` are the shapes, `digits` the digits, both in raster order.

    `signs` are printed words, in raster order, and `crop` is the photograph behind everything; a scene has them where
    `vtokens.scenes.worlds.furnish` has added them.
    """

    split: str
    seed: int
    index: int
    attempt: int
    objects: tuple[Thing, ...]
    digits: tuple[Thing, ...]
    signs: tuple[Sign, ...] = ()
    crop: Crop | None = None

    @property
    def taken(self) -> frozenset[int]:
        """The numbers of all cells that hold something or are annotated to."""
        printed = {s.row * GRID + s.column + n for s in self.signs for n in range(s.cells)}
        return frozenset({t.cell for t in (*self.objects, *self.digits)} | printed)

    @property
    def visible(self) -> tuple[Thing, ...]:
        """The shapes that are really in the picture."""
        return tuple(t for t in self.objects if t.visible)


def check_split(split: str) -> None:
    """Raise ValueError with the nearest name if `split` is none of SPLITS."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)


def stream(split: str, seed: int, index: int, *more: int) -> np.random.Generator:
    """The random stream that belongs to these numbers; the split's number comes first, so no two splits share one."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((SPLITS.index(split), seed, index, *more))))
