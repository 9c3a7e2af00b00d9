"""The share of attention to the picture, layer by layer, as features of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.filter.signals.base import OfMiddle, Signal, Spans, middle
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Parts, Trace


@register(
    "visual_profile",
    paper="the VAR probe of arXiv:2411.16724, averaged over heads",
    says=(
        "layers looked at the picture as they do for what is not there",
        "layers looked at the picture as they do for what is there",
    ),
)
@dataclass(frozen=True)
class VisualProfile(Signal):
    """-mean_h sum_{j in V} A^{l,h}[q_k, j], mean over the mention, for each layer of `visual_share`. No further pass.

    One number a layer, `visual_profile.5` and so on.
    """

    by_token: ClassVar[bool] = True

    def parts(self, depth: int) -> Parts:
        return Parts(stretches=frozenset({middle(depth)}))

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        layers = trace.attending(middle(trace.depth))
        rows = spans.over(-OfMiddle.rows(trace, trace.visual).mean(1), "mean")
        return {f"{self.name}.{layer}": row for layer, row in zip(layers, rows, strict=True)}
