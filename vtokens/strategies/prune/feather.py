"""FEATHER: attention without rotary embeddings, beside an even grid, then attention alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention
from vtokens.strategies.staged import check_share_of_depth, layers_at
from vtokens.strategies.views.visuals import Visuals


@register(
    "feather",
    paper="FEATHER, arXiv:2412.13180",
    venue="ICCV 2025",
    evidence="text",
    shown="tests/strategies/test_feather.py::test_both_stages_are_the_loops_of_the_text",
)
@dataclass(frozen=True)
class Feather(Strategy):
    """Keeps what the last position attends to with rotary embeddings undone, and at first an even grid as well.

    Rotary embeddings make a late query prefer late keys, which is the bottom of a picture. Without them the last row
    of the layer before, shared out over visual tokens and averaged over heads, is a score that place has no say in.

    Attributes:
        keep: 1 - R of the paper. The first stage leaves that share by score, and the grid beside it; the second the
            square of it, of what the first left, by score alone.
        layers: the decoder layers before which the two stages run, as numbers or as shares of the depth (8 and 16 of
            32).
        stride: every how many rows and columns the grid has a token.
        rotary: True leaves the rotary embedding in the score, where a decoder does not let it be undone.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
    """

    keep: float = 0.3
    layers: tuple[int | float, int | float] = (0.25, 0.5)
    stride: int = 3
    rotary: bool = False
    positions: Literal["original", "compact"] = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.keep, float):
            raise ValueError(f"keep={self.keep!r} is a count: 'feather' takes a share in (0, 1], 1 - R of its paper")
        if self.stride < 1:
            raise ValueError(
                f"stride={self.stride!r} is out of range: 1 is every row and column, larger ones are allowed"
            )
        for layer in self.layers:
            check_share_of_depth("layers", layer)

    def needs(self, facts: Facts) -> Needs:
        layers = layers_at("layers", self.layers, facts, facts.behind_attending)
        signals = [Attention(layer - 1, "last", self.rotary) for layer in layers]
        return Needs(signals=signals, layer=layers, compact=self.positions == "compact")

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        scores = visuals.attention(index - 1, "last", self.rotary)
        first = visuals.observed.notes(self).setdefault(0, index)
        if index != first:
            return visuals.top(scores, self.keep**2)
        found = visuals.top(scores, self.keep)
        return Selection((found.keep | _grid(visuals, self.stride)) & visuals.valid)


def _grid(visuals: Visuals, stride: int) -> Tensor:
    """bool (G, M): tokens in every `stride`-th row and column of their view or frame, from the first on."""
    return visuals.at_cells([(one.y % stride == 0) & (one.x % stride == 0) for one in visuals.layout.pictures])
