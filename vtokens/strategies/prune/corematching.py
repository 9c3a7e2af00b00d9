"""CoreMatching: visual tokens that set off the same neurons as the end of the prompt stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layer
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Neurons
from vtokens.strategies.views.visuals import Visuals


@register(
    "corematching",
    paper="CoreMatching, arXiv:2505.19235",
    venue="ICML 2025",
    evidence="parity",
    shown="tests/strategies/test_corematching.py::test_what_stays_is_what_the_release_keeps",
)
@dataclass(frozen=True)
class CoreMatching(Strategy):
    """Keeps the visual tokens whose active neurons match those of a late prompt token, as many as stand out.

    Of the MLP of decoder layer `layer - 1`, a token's score is the number of neurons that are active (act(gate) * up
    above 0) both at it and at the reference. Scores are sorted; those above the knee of the curve, the point farthest
    from the line between its ends, stay. How many these are, the picture decides.

    Attributes:
        layer: decoder layer before which the others are dropped, 1 to depth - 1; None is the first one in which the
            release drops any, layer 6 of 32, in proportion to the depth.
        reference: position of the reference, from the end of the prompt; -5 is the release's, where LLaVA's template
            begins the answer.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
    """

    layer: int | None = None
    reference: int = -1
    positions: Literal["original", "compact"] = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference > -1:
            raise ValueError(
                f"reference={self.reference} is no place before the end of a prompt: -1 and below is allowed"
            )

    def _layer(self, depth: int) -> int:
        return max(1, 6 * depth // 32) if self.layer is None else check_layer("layer", self.layer, depth, first=1)

    def needs(self, facts: Facts) -> Needs:
        layer = self._layer(facts.depth)
        compact = self.positions == "compact"
        return Needs(signals=(Neurons(layer - 1, self.reference),), layer=(layer,), compact=compact)

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        return Selection(above_knee(visuals.neurons(index - 1, self.reference), visuals.valid))


def above_knee(scores: Tensor, valid: Tensor) -> Tensor:
    """bool (G, M): whole scores above the knee of their group's falling curve.

    All of a group whose curve is a line, which has no knee; those at the knee as well where none is above it.
    """
    whole = scores.long().masked_fill(~valid, -1)
    curve, count = whole.sort(1, descending=True).values, valid.sum(1, keepdim=True)
    first, last = curve[:, :1], curve.gather(1, (count - 1).clamp(min=0))
    place = torch.arange(curve.shape[1], device=curve.device)
    # Twice the area over the line between the ends is the distance from it times one length: whole numbers, no ties
    # but real ones.
    far = ((curve - first) * (count - 1) - place * (last - first)).abs().masked_fill(place >= count, -1)
    most = far.amax(1, keepdim=True)
    knee = curve.gather(1, (far == most).long().argmax(1, keepdim=True))
    above = whole > knee
    above = torch.where(above.any(1, keepdim=True), above, whole >= knee)
    return (above | (most <= 0)) & valid
