"""ACT: visual tokens that draw attention from all text, whatever it says, give some of it to the other keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layers, check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.heads import Heads


@register(
    "act",
    paper="ACT (hidden attention sinks), arXiv:2406.15765",
    venue="ICML 2024",
    evidence="stand-in",
    shown="tests/strategies/test_act.py::test_generation_is_that_of_edited_weights",
)
@dataclass(frozen=True)
class Act(Strategy):
    """Calibrates attention while the prompt is read: sinks among visual tokens lose weight to all other keys.

    In each head a visual token is a sink if text behind the picture spends more than `threshold` of its attention on
    it, in the mean over the rows that see it. In these rows the weight of sinks is multiplied by `beta`, and what that
    frees goes to all other keys, in proportion to what they have. Generated tokens attend as ever.

    Attributes:
        beta: what sinks keep of their weight; 1 changes nothing.
        threshold: the mean attention above which a token is a sink.
        layers: decoder layers that take part; None takes 2 to 30 of 32.
    """

    beta: float = 0.4
    threshold: float = 0.1
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("beta", self.beta)
        check_share("threshold", self.threshold)

    def needs(self, facts: Facts) -> Needs:
        if self.beta == 1:
            return Needs(once=True)
        where = facts.scaled(2, 30) if self.layers is None else check_layers("layers", self.layers, facts.depth)
        return Needs(attend=where, weighs=True, minds_sizes=True, once=True)

    def at_attend(self, heads: Heads) -> None:
        if not heads.is_image_prefill or not heads.answers.index.shape[1]:
            return
        sink = (heads.received(heads.answers) > self.threshold) & heads.visual[:, None]
        heads.log("sinks", sink.sum(2).float().mean(1))
        heads.rescale(heads.answers, change=lambda shares: self.calibrated(shares, sink[:, :, None]))

    def calibrated(self, shares: Tensor, sink: Tensor) -> Tensor:
        """Attention (..., K) in which sinks, bool (..., K), keep `beta` of their weight; each row keeps its sum."""
        drawn = (shares * sink).sum(-1, keepdim=True)
        rest = (shares * ~sink).sum(-1, keepdim=True)
        given = (1 - self.beta) * drawn / rest.clamp(min=torch.finfo(torch.float32).tiny)
        # A row that looks at sinks alone has nobody to give to.
        return torch.where(rest > 0, shares * torch.where(sink, self.beta, 1 + given), shares)
