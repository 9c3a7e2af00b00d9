"""VTW: from the middle of the decoder on there are no visual tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.staged import check_share_of_depth, layers_at
from vtokens.strategies.views.visuals import Visuals


@register(
    "vtw",
    paper="VTW (Visual Tokens Withdrawal), github.com/lzhxmu/VTW",
    venue="AAAI 2025",
    evidence="text",
    shown="tests/strategies/test_vtw.py::test_layers_behind_it_see_the_text_alone",
)
@dataclass(frozen=True)
class Vtw(Strategy):
    """Drops all visual tokens before one decoder layer: what text has read of them by then is all it gets.

    Attributes:
        layer: a layer number from 1, or a share of the depth, rounded to the nearest layer (the paper's 15 of 32).
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
    """

    layer: int | float = 0.46875
    positions: Literal["original", "compact"] = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share_of_depth("layer", self.layer)

    def needs(self, facts: Facts) -> Needs:
        layers = layers_at("layer", (self.layer,), facts, range(1, facts.depth))
        return Needs(layer=layers, compact=self.positions == "compact")

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        return Selection(torch.zeros_like(visuals.valid), (0,) * len(visuals.counts))
