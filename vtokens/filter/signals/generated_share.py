"""PAS: the share of attention that goes to tokens generated before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.filter.signals.base import OfMiddle, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Trace


@register(
    "generated_share",
    paper="PAS, prelim attention score",
    says=("attention went to what was written before", "attention did not go to what was written before"),
)
@dataclass(frozen=True)
class GeneratedShare(OfMiddle):
    """mean_{l,h} sum_{j generated, j < k} A^{l,h}[q_k, j] over the layers of `visual_share`. No further pass.

    The authors' choice of layers is not known to us. The number grows with k by itself, so that it has to be compared
    at equal position.

    Attributes:
        over: how the tokens of a mention are put together.
    """

    by_token: ClassVar[bool] = True

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        rows = self.rows(trace, trace.generated)
        return {self.name: spans.over(rows.mean((0, 1)), self.over)}
