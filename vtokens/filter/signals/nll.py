"""How unlikely the words were."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtokens.filter.signals.base import Over, Signal, Spans, check_over
from vtokens.filter.signals.registry import register
from vtokens.filter.trace import Trace


@register("nll", paper="the usual baseline")
@dataclass(frozen=True)
class Nll(Signal):
    """-log p(y_k | picture, prompt, y_<k), in nats, of the mention's least likely token. No further pass.

    Attributes:
        over: how the tokens of a mention are put together.
    """

    over: Over = "max"

    def __post_init__(self) -> None:
        check_over(self.over)

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        return {self.name: spans.over(-trace.logprob, self.over)}
