"""M3ID: the longer the answer, the more it is held against what the text alone suggests."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.bases import Contraster
from vtokens.strategies.checks import check_share, check_weight
from vtokens.strategies.registry import register
from vtokens.strategies.views.logits import Logits, NoPicture


@register(
    "m3id",
    paper="M3ID, arXiv:2403.14003",
    venue="CVPR 2024",
    evidence="text",
    shown="tests/strategies/test_contrast.py::test_m3id_by_hand",
)
@dataclass(frozen=True)
class M3id(Contraster):
    """Contrasts the answer with that to the text alone, more so with every token.

    Log-probabilities become l + (1 - g) / g (l - l') with g = exp(-forgetting t) at the t-th token of the answer, where
    l' comes from the prompt without its pictures: the picture is taken to be forgotten at that rate.

    Attributes:
        forgetting: lambda of the paper.
        beta: tokens less than this times as probable as the favourite are ruled out; 0 rules nothing out.
    """

    forgetting: float = 0.02
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("forgetting", self.forgetting)
        check_share("beta", self.beta)

    def negative(self, facts: Facts) -> NoPicture:
        return NoPicture()

    def contrast(self, logits: Logits) -> Tensor:
        if logits.step is None:
            raise ValueError(
                "m3id weighs by how many tokens were generated, which a pass without a cache does not know: leave "
                "use_cache=True, or use 'pai', whose weight is the same at every token"
            )
        weight = (self.forgetting * logits.step[..., None]).expm1()
        real, text = logits.positive.log_softmax(-1), logits.negative.log_softmax(-1)
        return logits.cut(real + weight * (real - text), self.beta)
