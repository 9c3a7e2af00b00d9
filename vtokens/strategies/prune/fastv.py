"""FastV: drop the visual tokens that text hardly attends to, once, inside the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy, check_layer
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention
from vtokens.strategies.views.visuals import Visuals

_SCOPES = {"last": "last", "all_text": "text"}


@register("fastv", paper="FastV, arXiv:2403.06764")
@dataclass(frozen=True)
class FastV(Strategy):
    """Keeps the visual tokens that get most attention in decoder layer `layer - 1`, from layer `layer` on.

    Positions keep their original numbering and every later layer caches only what stayed. The reference ranks by
    the last query; its paper averages over queries (`query_scope="all_text"`).

    Attributes:
        keep: share or count per picture (1 - R of the paper).
        layer: K of the paper, 1 to depth - 1: layers before it see everything.
        query_scope: "last" prompt position or "all_text" from the first visual token on.
        pool: "image" gives each picture its own budget, "sample" ranks all tokens of a prompt together.
    """

    keep: Keep = 0.5
    layer: int = 2
    query_scope: Literal["last", "all_text"] = "last"
    pool: Literal["image", "sample"] = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "grouping", self.pool)

    def check(self, facts: Facts) -> None:
        check_layer("layer", self.layer, facts.depth, first=1)

    def _signal(self) -> Attention:
        return Attention(self.layer - 1, "last" if self.query_scope == "last" else "text")

    def signals(self, facts: Facts) -> Sequence[Attention]:
        return (self._signal(),)

    def acts_before(self, facts: Facts) -> Sequence[int]:
        return (self.layer,)

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        signal = self._signal()
        return visuals.top(visuals.attention(signal.layer, signal.rows), self.keep)
