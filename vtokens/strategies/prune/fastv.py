"""FastV: drop the visual tokens that text hardly attends to, once, inside the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.strategies.bases import ScorePruner
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Attention, QueryRows
from vtokens.strategies.views.visuals import Visuals


@register(
    "fastv",
    paper="FastV, arXiv:2403.06764",
    venue="ECCV 2024",
    evidence="text",
    shown="tests/strategies/test_fastv.py::test_last_row_of_the_layer_before",
)
@dataclass(frozen=True)
class FastV(ScorePruner):
    """Keeps the visual tokens that get most attention in decoder layer `layer - 1`, from layer `layer` on.

    Positions keep their original numbering and every later layer caches only what stayed. The reference ranks by
    the last query; its paper averages over queries (`query_scope="all_text"`).

    Attributes:
        keep: share or count per picture (1 - R of the paper).
        layer: K of the paper, 1 to depth - 1: layers before it see everything.
        query_scope: "last" prompt position or "all_text" from the first visual token on.
        pool: "image" gives each picture its own budget, "sample" ranks all tokens of a prompt together.
    """

    stage = "layer"
    keep: Keep = 0.5
    layer: int = 2
    query_scope: Literal["last", "all_text"] = "last"
    pool: Literal["image", "sample"] = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool == "sample":
            if self.budget == "per_frame":
                raise ValueError(
                    "pool='sample' ranks all frames together, which budget='per_frame' forbids: leave one out"
                )
            object.__setattr__(self, "grouping", "sample")

    @property
    def _rows(self) -> QueryRows:
        return "last" if self.query_scope == "last" else "text"

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Attention(self.layer - 1, self._rows),))

    def score(self, visuals: Visuals) -> Tensor:
        return visuals.attention(self.layer - 1, self._rows)
