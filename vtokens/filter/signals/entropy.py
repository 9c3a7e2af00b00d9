"""The entropy of the distributions that predicted a mention's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.filter.signals.base import Over, Pooled, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Trace


@register(
    "entropy",
    paper="the usual baseline",
    says=("the model was unsure what to write here", "the model was sure what to write here"),
)
@dataclass(frozen=True)
class Entropy(Pooled):
    """-sum_w p(w) log p(w), in nats, of the distribution that predicted each token; the largest one. No further pass.

    Attributes:
        over: how the tokens of a mention are put together.
    """

    by_token: ClassVar[bool] = True

    over: Over = "max"

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        return {self.name: spans.over(trace.entropy, self.over)}
