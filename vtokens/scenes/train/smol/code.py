"""What a patch's vector says, in words of the language model itself: two codes, and all that lies between.

Behind a frozen language model that has learnt to look up text, sums of words mean nothing at first, while neighbouring
tokens that read ' red circle' are looked up at once. So training begins with the text-like code: the three patches of a
row of a cell read ' a', colour and row, shape and column. It ends with the superposed code, where every patch that
shows something carries all of it: colour + shape + row + column.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...render import BACKGROUND
from ...world import COLOURS, GRID, NUMBERS, SHAPES, Scene

PATCHES = 144
_SIDE = 12
_IN_CELL = _SIDE // GRID
_AT = torch.arange(PATCHES)
CELL_OF = _AT // _SIDE // _IN_CELL * GRID + _AT % _SIDE // _IN_CELL  #: the cell of each patch, (144,)
SLOT = _AT % _IN_CELL  #: the column of each patch inside its cell, (144,)
_LEADING = torch.tensor([True, False, False])[SLOT]


class Code(nn.Module):
    """The vectors of patches; what is learnt is how rows, columns and blank patches look.

    Args:
        words: (V, hidden) word embeddings.
        tokenizer: the language model's.
    """

    first: Tensor
    second: Tensor
    article: Tensor

    def __init__(self, words: Tensor, tokenizer: Any) -> None:
        super().__init__()
        words = words.float()

        def word(text: str) -> Tensor:
            (number,) = tokenizer.encode(text, add_special_tokens=False)
            return words[number]

        first = [word(f" {c}") for c in COLOURS for _ in SHAPES] + [word(" digit")] * len(NUMBERS)
        second = [word(f" {s}") for _ in COLOURS for s in SHAPES] + [word(f" {n}") for n in NUMBERS]
        none = torch.zeros(1, words.shape[1])
        self.register_buffer("first", torch.cat((torch.stack(first), none)), persistent=False)
        self.register_buffer("second", torch.cat((torch.stack(second), none)), persistent=False)
        self.register_buffer("article", word(" a").clone(), persistent=False)
        numbers = torch.stack([word(str(n + 1)) for n in range(GRID)])
        self.row = nn.Parameter(numbers + word(" row"))
        self.column = nn.Parameter(numbers + word(" column"))
        self.blank = nn.Parameter(0.5 * word("."))

    def forward(self, classes: Tensor, blend: tuple[float, float] = (1.0, 1.0)) -> Tensor:
        """The vectors of all patches, float32 (B, 144, hidden).

        classes: int (B, 144), what each patch shows or BACKGROUND. blend: how far the first patch of each three, and
        the others, have gone from the text-like code (0) to the superposed one (1).
        """
        first, second = self.first[classes], self.second[classes]
        row, column = self.row[CELL_OF // GRID], self.column[CELL_OF % GRID]
        full = first + second + row + column
        slot = SLOT[:, None]
        text = torch.where(slot == 0, self.article, torch.where(slot == 1, first + row, second + column))
        share = torch.where(_LEADING, blend[0], blend[1])[:, None]
        return torch.where((classes == BACKGROUND)[..., None], self.blank, text + share * (full - text))


def cell_classes(scenes: list[Scene]) -> Tensor:
    """What the cell of each patch holds, int (B, 144): the text-like code says it in all of a cell's patches."""
    found = torch.full((len(scenes), GRID * GRID), BACKGROUND)
    for row, scene in enumerate(scenes):
        for thing in (*scene.visible, *scene.digits):
            found[row, thing.cell] = thing.number
    return found[:, CELL_OF]


def rows_of_cells(classes: Tensor, blanks: int, draw: torch.Generator) -> Tensor:
    """One random row of patches of every cell that holds something, and blanks up to one length; sorted int (B, n).

    classes: as `cell_classes` gives them. blanks: how many blank patches the fullest picture gets.
    """
    chosen = torch.randint(0, _IN_CELL, (len(classes), GRID * GRID), generator=draw)[:, CELL_OF]
    shown = classes != BACKGROUND
    wanted = shown & (chosen == _AT // _SIDE % _IN_CELL)
    count = int(wanted.sum(1).max()) + blanks
    luck = torch.rand(classes.shape, generator=draw)
    return (luck * ~shown + 2 * wanted - shown.float() * ~wanted).topk(count, dim=1).indices.sort(dim=1).values
