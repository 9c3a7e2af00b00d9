"""PAI's logit refinement: classifier-free guidance away from what the text alone suggests."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.base import check_share, check_weight
from vtokens.strategies.bases import Contraster
from vtokens.strategies.registry import register
from vtokens.strategies.views.logits import Logits, NoPicture


@register(
    "pai",
    paper="PAI, arXiv:2407.21771",
    venue="ECCV 2024",
    evidence="text",
    shown="tests/strategies/test_contrast.py::test_pai_by_hand",
)
@dataclass(frozen=True)
class Pai(Contraster):
    """Contrasts the answer with that to the text alone, on log-probabilities.

    They become gamma (l - l') + l', where l' comes from the prompt without its pictures. This is the half of PAI that
    acts on logits; the half that amplifies attention to the picture is not part of it.

    Attributes:
        gamma: 1 changes nothing but what `beta` rules out; 1.1 is the paper's.
        beta: tokens less than this times as probable as the favourite are ruled out; 0 rules nothing out.
    """

    gamma: float = 1.1
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("gamma", self.gamma, least=1.0)
        check_share("beta", self.beta)

    def negative(self, facts: Facts) -> NoPicture:
        return NoPicture()

    def contrast(self, logits: Logits) -> Tensor:
        real, text = logits.positive.log_softmax(-1), logits.negative.log_softmax(-1)
        return logits.cut(self.gamma * (real - text) + text, self.beta)
