"""GLSim: cosines of a mention's hidden state with the prompt's, and with those of its most likely patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.filter.signals.base import Signal, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Parts, Trace
from vtokens.strategies.checks import check_share


@register(
    "similarity",
    paper="GLSim: global-local similarity",
    says=("neither the scene nor its likeliest patches resemble it", "the scene or its likeliest patches resemble it"),
)
@dataclass(frozen=True)
class Similarity(Signal):
    """-{w cos(h_l'(o), h_l(prompt)) + (1 - w) mean_{j in top K} cos(h_l'(o), h_l(v_j))}. No further pass.

    o is the mean over the mention of the rows q_k that predict it (the authors' off-by-one), `prompt` the last prompt
    position, and the K visual tokens those at which the output layer gives the mention the highest probability, mean
    over its tokens. l is the last state, l' the one before. Three numbers: `similarity`, and its two terms
    `similarity.scene` and `similarity.patches`.

    Attributes:
        weight: w.
        most: K.
    """

    weight: float = 0.6
    most: int = 32

    def __post_init__(self) -> None:
        check_share("weight", self.weight)
        if isinstance(self.most, bool) or not isinstance(self.most, int) or self.most < 1:
            raise ValueError(f"most={self.most!r} is not allowed: a number of visual tokens, at least 1")

    def parts(self, depth: int) -> Parts:
        last = frozenset({depth})
        return Parts(states=frozenset({depth - 1, depth}), image_states=last, lens=last)

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        [said], [shown] = trace.where("states", [trace.depth - 1]), trace.where("image_states", [trace.depth])
        word = normalize(spans.over(trace.hidden[said].T, "mean").T, dim=-1)
        scene = word @ normalize(trace.at_prompt(trace.depth), dim=-1)
        [lens] = trace.where("lens_states", [trace.depth])
        confidence = spans.over(trace.lens[lens].exp().T, "mean").T
        top = confidence.topk(min(self.most, int(trace.kept.sum())), dim=1).indices
        cosine = word @ normalize(trace.image_hidden[shown], dim=-1).T
        patches = cosine.gather(1, top).mean(1) if top.shape[1] else torch.zeros_like(scene)
        whole = self.weight * scene + (1 - self.weight) * patches
        return {self.name: -whole, f"{self.name}.scene": -scene, f"{self.name}.patches": -patches}
