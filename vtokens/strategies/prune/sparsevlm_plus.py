"""SparseVLM+: the words that the picture is about choose, by the heads that look at it, and distance has no say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.core.budget import Keep, budget
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Attention
from vtokens.strategies.staged import StagedPruner
from vtokens.strategies.views.visuals import Visuals


@register(
    "sparsevlm_plus",
    paper="SparseVLM+ (the release's version 2.0), arXiv:2410.04417",
    evidence="parity",
    shown="tests/strategies/test_sparsevlm_plus.py::test_heads_and_tokens_are_those_of_the_release",
)
@dataclass(frozen=True)
class SparseVlmPlus(StagedPruner):
    """Keeps at three depths what the words that the picture is about attend to, in the heads that look at it most.

    Raters are those of `sparsevlm`. Each of their attention weights is divided by what the rotary embedding alone makes
    of the distance (`Attention(level=True)`). Of a picture, the heads count that then give it the most, and a token's
    score is the mean over these and the raters. What is not kept is dropped.

    Attributes:
        keep: share or count per picture that the last stage leaves.
        layers: the decoder layers before which the stages run, as numbers or as shares of the depth (behind layers 2, 6
            and 15 of 32).
        before: the shares that the earlier stages leave; None: those of the release, for keep=0.205, 0.104, 0.0486 and
            0.0347 ("192", "128", "96" and "64" tokens), and for another `keep` what lies between.
        heads: the share of the heads that count, in (0, 1], at least one; the release takes 14, of 32 in LLaVA-1.5-7B.
        level: False leaves weights as they are, where a decoder's rotary embedding is not of whole heads.
    """

    schedules: ClassVar[tuple[tuple[float, ...], ...]] = (
        (300 / 576, 200 / 576, 118 / 576),
        (238 / 576, 108 / 576, 60 / 576),
        (246 / 576, 54 / 576, 28 / 576),
        (66 / 576, 34 / 576, 20 / 576),
    )
    keep: Keep = 0.205
    layers: tuple[int | float, ...] = (0.09375, 0.21875, 0.5)
    before: tuple[float, ...] | None = None
    heads: float = 0.4375
    level: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.heads <= 1:
            raise ValueError(f"heads={self.heads!r} is out of range: a share of the heads in (0, 1] is allowed, as 0.5")

    def reads(self, layer: int) -> Needs:
        return Needs(signals=(Attention(layer - 1, "raters", pool="each", level=self.level),))

    def score(self, visuals: Visuals, index: int) -> Tensor:
        received = visuals.attention(index - 1, "raters", pool="each", level=self.level)
        received = received.masked_fill(~visuals.valid[..., None], 0)
        count = budget(received.shape[2], self.heads)
        heads = received.sum(1).argsort(dim=1, descending=True, stable=True)[:, None, :count]
        return received.gather(2, heads.expand(-1, received.shape[1], -1)).mean(2)
