"""How close the second choice was."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtokens.filter.signals.base import Over, Signal, Spans, check_over
from vtokens.filter.signals.registry import register
from vtokens.filter.trace import Trace


@register("margin", paper="MetaToken, arXiv:2405.19186")
@dataclass(frozen=True)
class Margin(Signal):
    """-(p_1 - p_2) of the two most likely tokens at each step, in [-1, 0]; the largest one. No further pass.

    Attributes:
        over: how the tokens of a mention are put together.
    """

    over: Over = "max"

    def __post_init__(self) -> None:
        check_over(self.over)

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        return {self.name: spans.over(-trace.margin, self.over)}
