"""ID-Selection: the most important token is taken, its look-alikes are worth less from then on, and so forth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.kernels import greedy_walk, scaled
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Saliency
from vtokens.strategies.views.visuals import Visuals


@register(
    "idselection",
    paper="ID-Selection, arXiv:2604.05601",
    evidence="text",
    shown="tests/strategies/test_idselection.py::test_the_kept_tokens_are_those_of_a_slow_walk",
)
@dataclass(frozen=True)
class IdSelection(Strategy):
    """Keeps salient tokens one after the other, each of which takes worth from the tokens that are like it.

    Scores are the tower's saliency, from 0 to 1 in each picture. The token i with the highest score S_i is kept, every
    other loses S_j <- S_j - exp(-gamma (1 - cos_ij)^2) S_i, and the next highest follows.

    Attributes:
        keep: share or count per picture.
        gamma: how fast the loss fades with the cosine distance; 0 takes as much from all, so that saliency alone
            decides.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    keep: Keep = 0.25
    gamma: float = 20.0
    positions: Literal["original", "compact"] = "original"
    of: Literal["left", "original"] = "left"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("gamma", self.gamma)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(),), compact=self.positions == "compact")

    def at_prompt(self, visuals: Visuals) -> Selection:
        counts = visuals.budgets(self.keep, self.of)
        scores = scaled(visuals.saliency(), visuals.valid)
        return Selection(greedy_walk(visuals.tokens, visuals.valid, counts, scores, self._suppressed), counts)

    def _suppressed(self, scores: Tensor, like: Tensor, best: Tensor, pick: Tensor) -> Tensor:
        """Scores (G, M) less what the choice, with the score `best` (G, 1), takes from them."""
        # Once nothing is left to take, nothing is given back either: the least suppressed follow.
        return scores - torch.exp(-self.gamma * (1 - like).square()) * best.clamp(min=0)
