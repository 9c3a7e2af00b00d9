"""Dynamic-LLaVA without its trained predictor: one early cut of the picture, by attention without distance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.strategies.bases import ScorePruner
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Attention
from vtokens.strategies.views.visuals import Visuals


@register(
    "dynamic_llava",
    paper="Dynamic-LLaVA, arXiv:2412.00876",
    venue="ICLR 2025",
    evidence="stand-in",
    shown="tests/strategies/test_dynamic_llava.py::test_the_cut_is_by_unturned_attention",
)
@dataclass(frozen=True)
class DynamicLlava(ScorePruner):
    """Keeps a fifth of the visual tokens behind the second decoder layer, by a score in place of a trained predictor.

    The score is what the last position of the prompt attends to in layer `layer - 1`, the rotary embedding undone.

    Attributes:
        keep: share or count per picture; .2 is what the trained predictor keeps.
        layer: decoder layer before which the others are dropped, 1 to depth - 1.
        rotary: True leaves the rotary embedding in the score, where a decoder does not let it be undone.
    """

    stage = "layer"
    keep: Keep = 0.2
    layer: int = 2
    rotary: bool = False

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Attention(self.layer - 1, rotary=self.rotary),))

    def score(self, visuals: Visuals) -> Tensor:
        return visuals.attention(self.layer - 1, rotary=self.rotary)
