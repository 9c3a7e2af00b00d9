"""T-VHD: how far head outputs with the picture are from those without it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from vtokens.filter.signals.base import Over, Signal, Spans, check_over, middle
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Parts, Trace
from vtokens.strategies.checks import check_share


@register(
    "head_divergence",
    paper="T-VHD of VHR, arXiv:2412.13949",
    says=("the picture changed little of what heads gave", "the picture changed what heads gave"),
)
@dataclass(frozen=True)
class HeadDivergence(Signal):
    """-sum_l sum_{top k of h} ||A^{l,h}(y_k | picture, text) - A^{l,h}(y_k | text)||_2. One pass, of the text alone.

    A^{l,h} is a head's output before the output projection. The paper sums over all layers; here the middle ones
    (5 to 18 of 32, scaled) are summed, which are watched anyhow.

    Attributes:
        share: of the heads of a layer, those that diverge most; the paper does not state k.
        over: how the tokens of a mention are put together.
    """

    share: float = 0.25
    over: Over = "mean"

    def __post_init__(self) -> None:
        check_over(self.over)
        check_share("share", self.share)

    def parts(self, depth: int) -> Parts:
        return Parts(stretches=frozenset({middle(depth)}), divergence=True)

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        if trace.divergence is None:
            raise ValueError("this trace was not compared with the text alone: score it for 'head_divergence'")
        rows = trace.divergence[trace.where("layers", trace.attending(middle(trace.depth)))]
        most = rows.topk(max(1, math.ceil(self.share * rows.shape[1])), dim=1).values
        return {self.name: spans.over(-most.sum((0, 1)), self.over)}
