"""The negative log-likelihood of a mention's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.filter.signals.base import Over, Pooled, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Trace


@register(
    "nll",
    paper="the usual baseline",
    says=("the model itself found these words unlikely", "the model found these words likely"),
)
@dataclass(frozen=True)
class Nll(Pooled):
    """-log p(y_k | picture, prompt, y_<k), in nats, of the mention's least likely token. No further pass.

    Attributes:
        over: how the tokens of a mention are put together.
    """

    by_token: ClassVar[bool] = True

    over: Over = "max"

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        return {self.name: spans.over(-trace.logprob, self.over)}
