"""The position of a mention in the response: a confounder of other signals, so it is always reported beside them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtokens.filter.signals.base import Signal, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Trace


@register(
    "position",
    paper="a confounder, as HaloProbe says",
    says=("of what stands there in an answer more is wrong", "of what stands there in an answer less is wrong"),
)
@dataclass(frozen=True)
class Position(Signal):
    """The number of response tokens before the mention. Reads neither picture nor model."""

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        return {self.name: spans.index[:, 0].float()}
