"""CARVE: what a question does not look at is painted over, pixel by pixel, and the question is asked again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from vtokens.core.facts import Facts
from vtokens.recipes.looking.asking import Asking, Box
from vtokens.recipes.looking.attended import GENERAL, looks, relative
from vtokens.recipes.looking.base import Looked, Recipe, function
from vtokens.recipes.looking.frame import rounded
from vtokens.recipes.looking.registry import recipe
from vtokens.strategies import Strategy, check_layer
from vtokens.strategies.checks import check_share


@recipe(
    "carve",
    paper="CARVE, arXiv:2509.06461",
    venue="ECCV 2026",
    evidence="stand-in",
    shown="tests/recipes/test_carve.py::test_pixels_are_those_with_the_greatest_contrast",
)
@dataclass(frozen=True)
class Carve(Recipe):
    """Paints over what the question looks at no more than a general one, and shows the rest beside the picture.

    The contrast A_q / (A_g + mean A_g) of a question and a general one is averaged over layers, brought to pixels
    bilinearly, and the `share` of them with most contrast stay; the others take the picture's mean colour. The box
    around what stayed is shown beside the picture. Three passes.

    Attributes:
        first, last: the decoder layers that are averaged over, 0 to depth - 2; by default the third quarter of all.
        share: how many of the pixels stay.
        general: the general question.
    """

    first: int | None = None
    last: int | None = None
    share: float = 0.25
    general: str = GENERAL

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("share", self.share)

    def layers(self, facts: Facts) -> tuple[int, ...]:
        """The layers that are read.

        Raises:
            ValueError: one that cannot be, or none with attention among them.
        """
        last = facts.depth - 2
        low = min(facts.depth // 2, last) if self.first is None else check_layer("first", self.first, facts.depth - 1)
        high = self.last if self.last is not None else max(low, min(3 * facts.depth // 4, last))
        check_layer("last", high, facts.depth - 1)
        found = tuple(layer for layer in facts.attending if low <= layer <= high)
        if not found and self.first is self.last is None:  # few layers of a hybrid decoder have attention
            found = tuple(layer for layer in facts.attending if layer <= last)[-1:]
        if not found:
            raise ValueError(f"first={low}, last={high}: no layer from the first to the last has attention")
        return found

    def watches(self, facts: Facts) -> tuple[Strategy, ...]:
        return looks(facts, self.layers(facts))

    def answer(self, asking: Asking) -> Looked:
        layers, frame = self.layers(asking.facts), asking.frame()
        contrast = np.mean(relative(asking, layers, self.general, floor=1.0), axis=0)
        carved, box = carve_out(asking.image, contrast, frame, self.share)
        said = asking.ask(images=(asking.image, carved))
        return self.looked(asking, said, (box,), attention=contrast, layers=layers)


def carve_out(
    image: Image.Image, contrast: np.ndarray, frame: tuple[float, float, float, float], keep: float
) -> tuple[Image.Image, Box]:
    """The box around the pixels with most contrast, all others of it in the mean colour of what the model saw.

    Args:
        image: RGB.
        contrast: float (h, w), of each patch.
        frame: (left, top, right, bottom), what the patches cover.
        keep: the share of the pixels there that stay; of equal ones the first in raster order.
    """
    place = rounded(frame)
    seen = image.convert("RGB").crop(place)
    pixels = np.asarray(seen).copy()
    smooth = Image.fromarray(contrast.astype(np.float32)).resize(seen.size, Image.Resampling.BILINEAR)
    count = max(1, round(keep * pixels.shape[0] * pixels.shape[1]))
    stays = np.zeros(pixels.shape[:2], dtype=bool)
    stays.flat[np.argsort(-np.asarray(smooth), axis=None, kind="stable")[:count]] = True
    pixels[~stays] = pixels.reshape(-1, 3).mean(0).round()
    rows, columns = np.flatnonzero(stays.any(1)), np.flatnonzero(stays.any(0))
    inside = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    carved = Image.fromarray(pixels).crop(inside)
    left, top = place[:2]
    return carved, (left + inside[0], top + inside[1], left + inside[2], top + inside[3])


carve = function(Carve)
