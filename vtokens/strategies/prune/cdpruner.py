"""CDPruner: a determinantal point process over features, conditioned on the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.kernels import determinantal
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Relevance
from vtokens.strategies.subset_pruner import SubsetPruner
from vtokens.strategies.views.visuals import Visuals

_LEAST = 1e-6
"""What the least relevant token has, of a range from there to 1; as in the released code."""


@register(
    "cdpruner",
    paper="CDPruner, arXiv:2506.10967",
    venue="NeurIPS 2025",
    evidence="stand-in",
    shown="tests/strategies/test_cdpruner.py::test_the_release_keeps_the_same_tokens_of_the_same_relevance",
)
@dataclass(frozen=True)
class CDPruner(SubsetPruner):
    """Keeps the tokens whose features, weighed by relevance to the question, have the largest determinant.

    The kernel is diag(r) S diag(r), S the cosines of projected features and r the relevance, rescaled to each picture's
    range; greedy MAP adds the token that raises its determinant most. Relevance is the mean cosine with the embeddings
    of the prompt's text where they enter the decoder. The paper takes it from the text tower of the CLIP model whose
    vision tower the model has, which no checkpoint of a vision-language model brings along.

    Attributes:
        keep: share or count per picture.
        negated: relevance is minus the cosine, as in the released code.
        theta: r becomes exp(theta / (2 (1 - theta)) r), so that more weighs relevance against diversity; 0 is diversity
            alone, None leaves r as it is.
    """

    keep: Keep = 0.1
    negated: bool = True
    theta: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.theta is not None and not 0 <= self.theta < 1:
            raise ValueError(f"theta={self.theta!r} is out of range: a number in [0, 1), or None")

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Relevance(),))

    def choose(self, visuals: Visuals, counts: Sequence[int]) -> Tensor:
        raw, valid = visuals.relevance(), visuals.valid
        raw = -raw if self.negated else raw
        low, high = raw.masked_fill(~valid, torch.inf).amin(1, True), raw.masked_fill(~valid, -torch.inf).amax(1, True)
        # Where all are equally relevant, all weigh 1.
        weight = ((raw - low + _LEAST) / (high - low).clamp(min=_LEAST)).masked_fill(~valid, 0)
        if self.theta is not None:
            weight = (self.theta / (2 * (1 - self.theta)) * weight).exp()
        return determinantal(visuals.tokens, weight, valid, counts)
