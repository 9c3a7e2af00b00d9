"""PAI: away from what the text alone suggests, and, if wanted, more attention to the picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.bases import Contraster
from vtokens.strategies.checks import check_layer, check_share, check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.heads import Heads
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
    """Contrasts the answer with that to the text alone, on log-probabilities, and can amplify attention to the picture.

    Log-probabilities become gamma (l - l') + l', where l' comes from the prompt without its pictures. With `alpha`,
    0.2 in the paper, the other half acts as well: from `first_layer` on a score z of a visual token becomes
    z + alpha |z| before the softmax, in the rows that write the answer, the last of the prompt and all behind it.

    Attributes:
        gamma: weight of the contrast; the paper's is 1.1. 1 contrasts nothing, and runs no second prompt.
        beta: tokens less than this times as probable as the favourite are ruled out; 0 rules nothing out.
        alpha: weight on attention to the picture; 0 leaves attention alone.
        first_layer: the first decoder layer whose attention is amplified.
    """

    gamma: float = 1.1
    beta: float = 0.1
    alpha: float = 0.0
    first_layer: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("gamma", self.gamma, least=1.0)
        check_share("beta", self.beta)
        check_weight("alpha", self.alpha)

    def needs(self, facts: Facts) -> Needs:
        if not self.alpha:
            return Needs()
        first = check_layer("first_layer", self.first_layer, facts.depth)
        return Needs(attend=[layer for layer in facts.attending if layer >= first], weighs=True, minds_sizes=True)

    def at_attend(self, heads: Heads) -> None:
        heads.rescale(heads.writing, tilt=self.alpha * heads.visual)

    def negative(self, facts: Facts) -> NoPicture | None:
        return None if self.gamma == 1 else NoPicture()

    def contrast(self, logits: Logits) -> Tensor:
        if self.gamma == 1:  # the text's log-probabilities would cancel
            return logits.cut(logits.positive, self.beta)
        real, text = logits.positive.log_softmax(-1), logits.negative.log_softmax(-1)
        return logits.cut(self.gamma * (real - text) + text, self.beta)
