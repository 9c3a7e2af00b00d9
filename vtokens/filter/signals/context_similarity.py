"""ContextualLens: the cosine between a mention's hidden state and its nearest patch, halfway through the model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from vtokens.filter.signals.base import Signal, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Parts, Trace


@register(
    "context_similarity",
    paper="ContextualLens: contextual embeddings beyond the logit lens",
    says=("no patch of the picture resembles it", "a patch of the picture resembles it"),
)
@dataclass(frozen=True)
class ContextSimilarity(Signal):
    """-max_{j in V} cos(h_l(o), h_l(v_j)), o the mean over the mention's own tokens, l = depth / 2. No further pass.

    A mention that ends the response has a last token that was never fed: it takes the state that predicted it. Where
    every visual token was dropped before that state, the similarity is 0.
    """

    def parts(self, depth: int) -> Parts:
        middle = frozenset({depth // 2})
        return Parts(states=middle, image_states=middle)

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        middle = trace.depth // 2
        [shown] = trace.where("image_states", [middle])
        patches = trace.image_hidden[shown]
        word = normalize(spans.over(trace.own(middle).T, "mean").T, dim=-1)
        cosine = word @ normalize(patches, dim=-1).T
        gone = (patches == 0).all(-1)
        best = cosine.masked_fill(gone, -1).amax(1)
        return {self.name: -best.masked_fill(gone.all(), 0)}
