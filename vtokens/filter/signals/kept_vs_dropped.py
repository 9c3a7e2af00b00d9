"""The log-likelihood of a mention under the visual tokens that were kept, less that under the dropped ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtokens.filter.signals.base import Pooled, Spans, middle
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Parts, Trace


@register(
    "kept_vs_dropped",
    paper="ours; after AGSER and VAUQ, which split the question or mask what was attended to",
    says=(
        "the tokens that were kept make it no likelier than the dropped ones",
        "the tokens that were kept make it likelier than the dropped ones",
    ),
)
@dataclass(frozen=True)
class KeptVsDropped(Pooled):
    """-[log p(y_k | kept tokens, .) - log p(y_k | the others, .)], in nats, mean over the mention. One pass.

    Behind a pruner the kept tokens are what it keeps, and the pass sees what it dropped. Without one the first term
    sees the whole picture, and the pass all but the quarter of it that the response attends to most.

    Attributes:
        over: how the tokens of a mention are put together.
    """

    def parts(self, depth: int) -> Parts:
        return Parts(stretches=frozenset({middle(depth)}), contrasts=frozenset({"dropped"}))

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        return {self.name: spans.over(-trace.contrast("dropped"), self.over)}
