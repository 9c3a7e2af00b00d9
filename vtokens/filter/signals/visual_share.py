"""SVAR: the share of attention that goes to the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.filter.signals.base import OfMiddle, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Trace


@register(
    "visual_share",
    paper="SVAR, arXiv:2411.16724",
    says=("it was written with little attention to the picture", "it was written with much attention to the picture"),
)
@dataclass(frozen=True)
class VisualShare(OfMiddle):
    """-sum_l mean_h sum_{j in V} A^{l,h}[q_k, j] over the middle layers (5 to 18 of 32, scaled). No further pass.

    q_k is the row that predicts token k, as in the authors' code, not the token's own.

    Attributes:
        over: how the tokens of a mention are put together.
    """

    by_token: ClassVar[bool] = True

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        rows = self.rows(trace, trace.visual)
        return {self.name: spans.over(-rows.mean(1).sum(0), self.over)}
