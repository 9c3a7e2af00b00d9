"""Patch Matters: parts of a picture are described by themselves, checked, and put together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vtokens.core.errors import shorten
from vtokens.recipes.looking.asking import Asking, Box
from vtokens.recipes.looking.base import Looked, Recipe, function
from vtokens.recipes.looking.registry import recipe
from vtokens.recipes.scorers import AnswerScorer
from vtokens.strategies.checks import check_share

DESCRIBE = "Describe this part of a picture."
CHECK = "Is this true of the picture: {query} Answer with yes or no."
_NAMES = (("upper", "middle", "lower"), ("left", "middle", "right"))


@recipe(
    "patches",
    paper="Patch Matters, arXiv:2504.06666",
    venue="CVPR 2025",
    evidence="stand-in",
    shown="tests/recipes/test_patches.py::test_parts_are_described_checked_and_put_together",
)
@dataclass(frozen=True)
class Patches(Recipe):
    """Describes the picture and its parts by themselves, keeps sentences that are true of them, and asks with these.

    Every part is cut out and described; the model is asked of each sentence whether it is true of the part, and those
    with P(yes) / (P(yes) + P(no)) of `threshold` at least are put before the question, part by part. Passes: one a
    part, one a sentence (none with threshold=0), one for the answer.

    Attributes:
        rows, columns: the parts, 1 to 9 each.
        threshold: how likely a sentence must be; 0 takes all, without asking.
        describe: what is asked of each part.
        check_by: what is asked of each sentence, with {query} in it.
        least: a model that answers neither yes nor no is refused: P(yes) + P(no) is below this. 0 takes any.
        tokens: the most new tokens of a part's description.
    """

    rows: int = 2
    columns: int = 2
    threshold: float = 0.5
    describe: str = DESCRIBE
    check_by: str = CHECK
    least: float = 0.1
    tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("threshold", self.threshold)
        for name in ("rows", "columns"):
            if not 1 <= getattr(self, name) <= 9:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed: 1 to 9")
        if self.tokens < 1:
            raise ValueError(f"tokens={self.tokens} is not allowed: at least 1")
        for name, text in (("describe", self.describe), ("check_by", self.check_by)):
            if not text.strip():
                raise ValueError(f"{name}={shorten(text)} is empty: what is asked of a part")
        AnswerScorer(None, None, self.check_by, least=self.least)  # which says what is wrong with these

    def answer(self, asking: Asking) -> Looked:
        told, notes = {}, []
        more: dict[str, Any] = {"max_new_tokens": self.tokens, "min_new_tokens": None, "streamer": None}
        boxes = parts(asking.image.size, self.rows, self.columns)
        for name, box in boxes.items():
            part = asking.image.crop(box)
            text = asking.ask(self.describe, (part,), **more).text
            kept = [one for one in sentences(text) if self._true(asking, part, one)]
            told[name] = (text, kept)
            if kept:
                notes.append(f"- {name}: {' '.join(kept)}")
        asked = "\n".join(["What parts of the picture show:", *notes, asking.question]) if notes else asking.question
        return self.looked(asking, asking.ask(asked), tuple(boxes.values()), parts=told)

    def _true(self, asking: Asking, part: Image.Image, sentence: str) -> bool:
        """Whether the attached model says so of a sentence about a part."""
        if not self.threshold:
            return True
        scorer = AnswerScorer(asking.model, asking.processor, self.check_by, least=self.least)
        with asking.attached():
            [chance] = scorer([part], sentence)
        return chance >= self.threshold


def parts(size: tuple[int, int], rows: int, columns: int) -> dict[str, Box]:
    """The parts of a picture by name, such as "upper left", in raster order; they cover it and do not overlap."""
    width, height = size
    found = {}
    for row in range(rows):
        for column in range(columns):
            box = (
                column * width // columns, row * height // rows,
                (column + 1) * width // columns, (row + 1) * height // rows,
            )  # fmt: skip
            found[_name(row, rows, column, columns)] = box
    return found


def _name(row: int, rows: int, column: int, columns: int) -> str:
    if rows > 3 or columns > 3:
        return f"row {row + 1}, column {column + 1}"
    picked = [
        names[0 if at == 0 else 2 if at == count - 1 else 1]
        for names, at, count in zip(_NAMES, (row, column), (rows, columns), strict=True)
        if count > 1
    ]
    return " ".join(dict.fromkeys(picked)) or "all of it"


def sentences(text: str) -> list[str]:
    """The sentences of a description, which end in a full stop, a mark or a line."""
    return [one.strip() for one in re.split(r"(?<=[.!?])\s+|\n+", text) if one.strip()]


patches = function(Patches)
