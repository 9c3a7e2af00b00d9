"""What most contrastive strategies share: a weight for the other prompt, and a limit on what it may make likely."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtokens.strategies.bases import Contraster
from vtokens.strategies.checks import check_share, check_weight
from vtokens.strategies.views.logits import Logits


@dataclass(frozen=True)
class Weighted(Contraster):
    """The logits become (1 + alpha) l - alpha l', where l' comes from the other prompt; subclasses write `negative`.

    Attributes:
        alpha: weight of the contrast.
        beta: tokens less than this times as probable as the favourite are ruled out; 0 rules nothing out.
    """

    alpha: float = 1.0
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("alpha", self.alpha)
        check_share("beta", self.beta)

    def contrast(self, logits: Logits) -> Tensor:
        return logits.contrast(self.alpha, self.beta)
