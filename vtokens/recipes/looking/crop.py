"""MLLMs Know Where to Look: the window that a question looks at, cut out and shown beside the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vtokens.core.facts import Facts
from vtokens.recipes.looking.asking import Asking, Box
from vtokens.recipes.looking.attended import GENERAL, Pull, gradient, layer_of, looks, relative
from vtokens.recipes.looking.base import Looked, Recipe, function
from vtokens.recipes.looking.frame import rounded
from vtokens.recipes.looking.registry import recipe
from vtokens.recipes.region import window_sums
from vtokens.strategies import Strategy

RATIOS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
_SIDE = 336
"""The window's side where the tower takes pictures of any size."""


@recipe(
    "crop",
    paper="MLLMs Know Where to Look, arXiv:2502.17422",
    venue="ICLR 2025",
    evidence="text",
    shown="tests/recipes/test_crop.py::test_relative_attention_and_the_box_are_those_of_plain_loops",
)
@dataclass(frozen=True)
class Crop(Recipe):
    """Cuts out what the question looks at, and asks again with the picture and the cutting.

    Where it looks is the attention of one layer from the end of the prompt, divided by the same for a general question
    ("relative", three passes), or taken times its gradient ("gradient", two, one of them with its way back). Windows of
    side `size` times 1, 1.2, ..., 2 are slid over it; of the best of each ratio, that counts which stands out most
    against its neighbours for its area.

    Attributes:
        method: "relative" or "gradient".
        layer: the decoder layer, 0 to depth - 2; by default as deep as the paper's (LLaVA-1.5: 14 of 32, Qwen2.5-VL: 22
            of 28).
        size: pixels; by default the tower's side (336 where it takes any size), and where that covers the picture half
            of its shorter side.
        general: the general question.
    """

    method: Literal["relative", "gradient"] = "relative"
    layer: int | None = None
    size: int | None = None
    general: str = GENERAL

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.size < 1:
            raise ValueError(f"size={self.size} is not allowed: the side of a window in pixels, at least 1")

    def watches(self, facts: Facts) -> tuple[Strategy, ...]:
        layer = layer_of(facts, self.layer)
        return looks(facts, (layer,)) if self.method == "relative" else (Pull(layer),)

    def answer(self, asking: Asking) -> Looked:
        layer, frame = layer_of(asking.facts, self.layer), asking.frame()
        if self.method == "relative":
            [attention] = relative(asking, (layer,), self.general)
        else:
            attention = gradient(asking, layer)
        box = window(attention, frame, self.size or _side(asking, frame))
        said = asking.ask(images=(asking.image, asking.image.crop(box)))
        return self.looked(asking, said, (box,), attention=attention, layer=layer)


def window(attention: np.ndarray, frame: tuple[float, float, float, float], size: float) -> Box:
    """The window that stands out most, in pixels of the picture.

    Args:
        attention: float (h, w), of each patch.
        frame: (left, top, right, bottom), what the patches cover.
        size: the smallest window's side in pixels; the picture as a whole if it is no larger.
    """
    rows, columns = attention.shape
    left, top, right, bottom = frame
    wide, high = (right - left) / columns, (bottom - top) / rows
    values = attention.astype(float)
    best: tuple[float, float, int, int, int, int] | None = None
    for ratio in RATIOS:
        across = min(columns, max(1, int(size * ratio / wide)))
        down = min(rows, max(1, int(size * ratio / high)))
        if (down, across) == (rows, columns):
            break
        inside = window_sums(values, down, across)
        # Of equal windows the first column by column, as the released loop meets them.
        x, y = np.unravel_index(inside.T.argmax(), inside.T.shape)
        around = [
            inside[b, a]
            for a, b in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1))
            if 0 <= a < inside.shape[1] and 0 <= b < inside.shape[0]
        ]
        sharp = float((inside[y, x] - np.mean(around)) / (across * down))
        if best is None or sharp > best[0]:
            best = (sharp, ratio, int(x), int(y), across, down)
    if best is None:
        return rounded(frame)
    _, ratio, x0, y0, across, down = best
    half = size * ratio / 2
    middle_x, middle_y = left + (x0 + across / 2) * wide, top + (y0 + down / 2) * high
    middle_x = _within(middle_x, left + half, right - half)
    middle_y = _within(middle_y, top + half, bottom - half)
    return (
        round(max(left, middle_x - half)), round(max(top, middle_y - half)),
        round(min(right, middle_x + half)), round(min(bottom, middle_y + half)),
    )  # fmt: skip


def _within(value: float, low: float, high: float) -> float:
    """`value` in these bounds, their middle where they cross: a window that is larger than the picture."""
    return (low + high) / 2 if low > high else min(max(value, low), high)


def _side(asking: Asking, frame: tuple[float, float, float, float]) -> float:
    """The side of the smallest window, where none was given."""
    vision = getattr(asking.model.config, "vision_config", None)
    side = getattr(vision, "image_size", None)
    size = float(side) if isinstance(side, int) else float(_SIDE)
    width, height = frame[2] - frame[0], frame[3] - frame[1]
    return size if size < max(width, height) else min(width, height) / 2


crop = function(Crop)
