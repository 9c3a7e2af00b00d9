"""The entropy of the attention to the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.filter.signals.base import OfMiddle, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Trace


@register(
    "attention_entropy",
    paper="spatial attention entropy; VRP finds it all but unrelated to being right",
    says=("attention was spread over the picture", "attention was gathered in the picture"),
)
@dataclass(frozen=True)
class AttentionEntropy(OfMiddle):
    """mean_{l,h} -sum_{j in V} a_j log a_j, a = A[q_k, V] / sum A[q_k, V], over the middle layers. No further pass.

    In nats. Sink tokens are left in: what makes a sink differs between models.

    Attributes:
        over: how the tokens of a mention are put together.
    """

    by_token: ClassVar[bool] = True

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        rows = self.rows(trace, trace.spread)
        return {self.name: spans.over(rows.mean((0, 1)), self.over)}
