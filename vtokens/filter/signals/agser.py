"""AGSER: the log-likelihood of a mention under the picture's most attended tokens, less that under the others"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.filter.signals.base import Pooled, Spans, middle
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Parts, Trace


@register(
    "agser",
    paper="after attention-guided self-reflection (AGSER), which splits the tokens of a question",
    says=(
        "what the answer attended to makes it no likelier than the rest of the picture",
        "what the answer attended to makes it likelier than the rest of the picture",
    ),
)
@dataclass(frozen=True)
class Agser(Pooled):
    """-[weight log p(y_k | attended tokens, .) - log p(y_k | the others, .)], in nats, over the mention. Two passes.

    Attended are the two thirds of the visual tokens that the rows which predict the answer look at most, averaged over
    heads and the watched layers; behind a pruner, of those that it keeps. The paper has the question's tokens in place
    of visual ones, writes an answer to either part, and holds both against the first by ROUGE-L; here the answer is
    read again, with either part of the picture alone.

    Attributes:
        over: how the tokens of a mention are put together.
        weight: of the attended part, lambda of the paper.
    """

    apart: ClassVar[bool] = True

    weight: float = 1.0

    def parts(self, depth: int) -> Parts:
        contrasts = frozenset({"attended", "unattended"})
        return Parts(stretches=frozenset({middle(depth)}), contrasts=contrasts)

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        seen, unseen = (trace.logprob - trace.contrast(name) for name in ("attended", "unattended"))
        return {self.name: spans.over(unseen - self.weight * seen, self.over)}
