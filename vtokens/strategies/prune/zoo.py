"""ZOO-Prune: tokens whose features move most when the projector's input is pushed, and that are unlike each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.kernels import greedy_walk, scaled
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_seed
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Sensitivity
from vtokens.strategies.views.visuals import Visuals


@register(
    "zoo",
    paper="ZOO-Prune, arXiv:2509.24837",
    venue="CVPR 2026",
    evidence="parity",
    shown="tests/strategies/test_zoo.py::test_the_released_code_picks_the_same_tokens",
)
@dataclass(frozen=True)
class Zoo(Strategy):
    """Keeps the tokens to which the projector is most sensitive, each weighed by how unlike it is to those kept.

    The projector's input is pushed along random unit directions u, forth and back: s_i is the mean of
    |P(x_i + h u) - P(x_i - h u)| / 2h, from 0 to 1 in each picture. The most sensitive token is kept first, then again
    and again the one with the highest s_i (1 - max cos_ij), j the kept ones. Neither attention nor text plays a part.

    Attributes:
        keep: share or count per picture.
        directions: how many u; the projector runs twice for each.
        step: h.
        seed: which directions.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    keep: Keep = 0.25
    directions: int = 64
    step: float = 0.01
    seed: int = 0
    positions: Literal["original", "compact"] = "original"
    of: Literal["left", "original"] = "left"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.directions < 1:
            raise ValueError(f"directions={self.directions!r} is out of range: an int from 1 on is allowed")
        if not 0 < self.step < math.inf:
            raise ValueError(f"step={self.step!r} is out of range: a finite number above 0 is allowed")
        check_seed(self.seed)

    def needs(self, facts: Facts) -> Needs:
        signal = Sensitivity(self.directions, self.step, self.seed)
        return Needs(signals=(signal,), compact=self.positions == "compact")

    def at_prompt(self, visuals: Visuals) -> Selection:
        counts = visuals.budgets(self.keep, self.of)
        weight = scaled(visuals.sensitivity(self.directions, self.step, self.seed), visuals.valid)

        def unlike(worth: Tensor, like: Tensor, best: Tensor, pick: Tensor) -> Tensor:
            return torch.minimum(worth, weight * (1 - like))

        # No cosine distance is above 2, so that the first choice is by weight alone.
        return Selection(greedy_walk(visuals.tokens, visuals.valid, counts, 2 * weight, unlike), counts)
