"""The logit lens: the largest probability of a mention's tokens at any visual token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.filter.signals.base import Signal, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Parts, Trace


@register(
    "lens",
    paper="internal confidence, arXiv:2410.02762",
    says=("no patch of the picture says it", "a patch of the picture says it"),
)
@dataclass(frozen=True)
class Lens(Signal):
    """-max_{l, j in V, w in mention} softmax(W_U h_l(v_j))_w, in [-1, 0]. No further pass.

    The output layer is applied to every visual token at every state, 2 * N * depth * vocabulary * width FLOPs: some 60%
    of a prefill of LLaVA-1.5-7B, which is why "fast" leaves it out. States are not normed, but for the last one.
    """

    heavy: ClassVar[bool] = True

    def parts(self, depth: int) -> Parts:
        return Parts(lens=frozenset(range(1, depth + 1)))

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        said = trace.lens[trace.where("lens_states", range(1, trace.depth + 1))]
        return {self.name: spans.over(said.amax((0, 2)), "max").exp().neg()}
