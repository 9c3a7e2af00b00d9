"""PAINT: what the answer says looks more at the tokens in which the vision tower gathers a picture, and at details."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.core.ranks import falling_rank
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layer, check_share, check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.outliers import outliers
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Saliency
from vtokens.strategies.views.heads import Heads
from vtokens.strategies.views.visuals import Visuals

_TILT = "paint.tilt"


@register(
    "paint",
    paper="PAINT, arXiv:2501.12206",
    evidence="text",
    shown="tests/strategies/test_rescaled.py::test_generation_is_that_of_edited_scores",
)
@dataclass(frozen=True)
class Paint(Strategy):
    """Lifts the scores of informed visual tokens, by their absolute values, in the rows that write the answer.

    Summary tokens are those whose [CLS] attention in the tower block that made the features lies above
    Q3 + 1.5 (Q3 - Q1) of their picture. Local tokens are the `share` of a picture with the highest [CLS] attention in
    the first block, less the summary tokens. A score z of these becomes z + weight |z| before the softmax. On towers
    without [CLS] the attention that a patch receives takes its place.

    Attributes:
        local: the weight of local tokens.
        summary: the weight of summary tokens.
        share: of each picture's tokens, those taken for local.
        first_layer: the first decoder layer that takes part.
    """

    local: float = 0.7
    summary: float = 0.3
    share: float = 0.25
    first_layer: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("local", self.local)
        check_weight("summary", self.summary)
        check_share("share", self.share)

    def check(self, facts: Facts) -> None:
        check_layer("first_layer", self.first_layer, facts.depth)

    def needs(self, facts: Facts) -> Needs:
        where = [layer for layer in facts.attending if layer >= self.first_layer]
        return Needs(signals=(Saliency(), Saliency((0,))), attend=where, weighs=True, minds_sizes=True, once=True)

    def at_attend(self, heads: Heads) -> None:
        visuals = heads.visuals
        if visuals is not None:
            tilts = visuals.observed.once((self, heads.query.device), lambda: visuals.spread(self.tilts(visuals)))
            heads.mark(_TILT, tilts, fill=0)
        heads.rescale(heads.writing, tilt=heads.marks(_TILT))

    def tilts(self, visuals: Visuals) -> Tensor:
        """float32 (G, M): the weight of each visual token."""
        rank = falling_rank(visuals.saliency((0,)), visuals.valid)
        most = on_device([int(self.share * count) for count in visuals.counts], rank.device)
        summary = outliers(visuals.saliency(), visuals.valid)
        return torch.where(summary, self.summary, torch.where(rank < most[:, None], self.local, 0.0))
