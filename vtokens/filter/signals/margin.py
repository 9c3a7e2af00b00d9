"""The difference of the two largest probabilities at each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.filter.signals.base import Over, Pooled, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Trace


@register(
    "margin",
    paper="MetaToken, arXiv:2405.19186",
    says=("another word was nearly as likely", "no other word came near"),
)
@dataclass(frozen=True)
class Margin(Pooled):
    """-(p_1 - p_2) of the two most likely tokens at each step, in [-1, 0]; the largest one. No further pass.

    Attributes:
        over: how the tokens of a mention are put together.
    """

    by_token: ClassVar[bool] = True

    over: Over = "max"

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        return {self.name: spans.over(-trace.margin, self.over)}
