"""AGLA: what the model says of the relevant part of a picture is added to what it says of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from vtokens.core.budget import Keep, check_keep
from vtokens.core.facts import Facts
from vtokens.core.picture import Picture
from vtokens.strategies.bases import Contraster
from vtokens.strategies.checks import check_layer, check_share, check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention
from vtokens.strategies.views.logits import Logits, Tokens
from vtokens.strategies.views.visuals import Visuals

Map = tuple[tuple[float, ...], ...]


@register(
    "agla",
    paper="AGLA, arXiv:2406.12718",
    venue="CVPR 2025",
    evidence="stand-in",
    shown="tests/strategies/test_agla.py::test_answers_are_those_of_the_formula",
)
@dataclass(frozen=True)
class Agla(Contraster):
    """Adds to the answer what the model says when it sees the relevant part of each picture alone.

    The logits become l + alpha l', where l' comes from the prompt in which the other visual tokens are blotted out.
    The paper masks pixels by the gradients of a second model, BLIP; here tokens are relevant by the attention that the
    end of the prompt pays to them, or by `relevance`, a map of your own.

    Attributes:
        alpha: weight of what is added.
        beta: tokens less than this times as probable as the favourite are ruled out; 0 rules nothing out.
        keep: share or count of each picture's tokens that are relevant; ours, the paper's follows from BLIP's score.
        layer: the decoder layer whose attention tells; None is the one at half of the depth.
        others: "zero" leaves zeros in the place of the others; "drop" takes them away, so that the prompt costs less.
        relevance: for each picture of a pass rows of numbers, top to bottom, of any size; the highest are relevant.
    """

    alpha: float = 2.0
    beta: float = 0.5
    keep: Keep = 0.75
    layer: int | None = None
    others: Literal["zero", "drop"] = "zero"
    relevance: tuple[Map, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("alpha", self.alpha)
        check_share("beta", self.beta)
        check_keep(self.keep)
        for one in self.relevance or ():
            if not one or not one[0] or any(len(row) != len(one[0]) for row in one):
                raise ValueError(f"relevance={one!r} is no map: rows of equally many numbers are needed")

    @property
    def _keeps_all(self) -> bool:  # all is relevant then, and is added all the same
        return False

    def check(self, facts: Facts) -> None:
        if self.layer is not None:
            check_layer("layer", self.layer, facts.depth)

    def needs(self, facts: Facts) -> Needs:
        layer = self.prepare(facts)
        return Needs(signals=() if self.relevance is not None else (Attention(layer),))

    def prepare(self, facts: Facts) -> int:
        """The layer whose attention tells."""
        return facts.nearest_attending(facts.depth // 2) if self.layer is None else self.layer

    def negative(self, facts: Facts) -> Tokens:
        layer = self.prepare(facts)
        return Tokens(lambda visuals: self.relevant(visuals, layer), blank=self.others == "zero")

    def relevant(self, visuals: Visuals, layer: int) -> Selection:
        """The relevant tokens of each picture."""
        if self.relevance is None:
            return visuals.top(visuals.attention(layer, "last"), self.keep)
        pictures = visuals.layout.pictures
        if len(self.relevance) not in (1, len(pictures)):
            raise ValueError(
                f"relevance has {len(self.relevance)} maps, and the pass {len(pictures)} pictures (beams repeat them): "
                "one for each is needed, or one for all"
            )
        maps = self.relevance * (len(pictures) if len(self.relevance) == 1 else 1)
        tables = [spread_over(picture, np.array(one)) for picture, one in zip(pictures, maps, strict=True)]
        return visuals.top(visuals.at_cells(tables), self.keep)

    def contrast(self, logits: Logits) -> Tensor:
        return logits.cut(logits.positive + self.alpha * logits.negative, self.beta)


def spread_over(picture: Picture, relevance: np.ndarray) -> np.ndarray:
    """float32 (positions,): for each position of a picture the number of a map (h, w) at the middle of its cell.

    Raises:
        ValueError: its views are parts of it, and nobody knows which.
    """
    if picture.tiled:
        raise ValueError(
            "a picture of several tiles, of which it is not known where they lie, has no place for a map of it: leave "
            "relevance out, or switch the cutting into tiles off in the processor"
        )
    found = np.zeros(len(picture), dtype=np.float32)
    high, wide = relevance.shape
    for number, (_, rows, columns) in enumerate(picture.grids):
        here = picture.view == number
        y = ((picture.y[here] + 0.5) / rows * high).astype(int).clip(0, high - 1)
        x = ((picture.x[here] + 0.5) / columns * wide).astype(int).clip(0, wide - 1)
        found[here] = relevance[y, x]
    return found
