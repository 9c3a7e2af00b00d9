"""DAMRO: the tokens that the vision tower's class token dwells on, by themselves, are what to move away from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vtokens.core.budget import check_keep
from vtokens.core.facts import Facts
from vtokens.core.ranks import falling_rank
from vtokens.strategies.contrast.weighted import Weighted
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Saliency
from vtokens.strategies.views.logits import Tokens
from vtokens.strategies.views.visuals import Visuals


@register(
    "damro",
    paper="DAMRO, arXiv:2410.04514",
    venue="EMNLP 2024",
    evidence="text",
    shown="tests/strategies/test_contrast.py::test_damro_keeps_the_outliers_of_the_tower",
)
@dataclass(frozen=True)
class Damro(Weighted):
    """Contrasts the answer with that to the picture's outlier tokens alone.

    The logits become (1 + alpha) l - alpha l', where l' comes from a prompt with no more of each picture than the `k`
    tokens that [CLS] attends to most: often background, which the decoder takes for content.

    Attributes:
        alpha: weight of the contrast; 2 for LLaVA in the paper, 0.5 for InstructBLIP.
        beta: tokens less than this times as probable as the favourite are ruled out; 0 rules nothing out.
        k: tokens of each picture; 10 for LLaVA, 4 for InstructBLIP.
        positions: "original" leaves them where they were in the picture; "compact" is the release's: one after the
            other, the most attended first, and the text behind them follows.
    """

    alpha: float = 2.0
    k: int = 10
    positions: Literal["original", "compact"] = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_keep(self.k)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(),))

    def negative(self, facts: Facts) -> Tokens:
        return Tokens(self.outliers, newlines=False, arrange=self.attended if self.positions == "compact" else None)

    def outliers(self, visuals: Visuals) -> Selection:
        """The `k` most attended tokens of each picture, or all it has."""
        rank = falling_rank(visuals.saliency(), visuals.valid)
        return Selection((rank < self.k) & visuals.valid, tuple(min(self.k, count) for count in visuals.counts))

    def attended(self, visuals: Visuals) -> Tensor:
        """float32 (B, W): how much [CLS] attends to each position."""
        return visuals.observed.saliency(None)
