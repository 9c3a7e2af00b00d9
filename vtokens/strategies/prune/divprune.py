"""DivPrune: the subset whose two closest tokens are as far apart as can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.budget import Keep
from vtokens.kernels import TIE, farthest_point
from vtokens.strategies.registry import register
from vtokens.strategies.subset_pruner import SubsetPruner
from vtokens.strategies.views.visuals import Visuals

_AT_ONCE = 1 << 24
"""Cosines held at once when nearest neighbours are sought, in elements: 64 MiB."""


@register(
    "divprune",
    paper="DivPrune, arXiv:2503.02175",
    venue="CVPR 2025",
    evidence="text",
    shown="tests/strategies/test_divprune.py::test_the_worked_example",
)
@dataclass(frozen=True)
class DivPrune(SubsetPruner):
    """Keeps the tokens that are farthest from each other: the greedy answer to the max-min diversity problem.

    Distance is 1 - cosine of projected features. The first token is the one that is farthest from its nearest
    neighbour, each further one the farthest from those chosen. Ties go to the earlier token.

    Attributes:
        keep: share or count per picture.
    """

    keep: Keep = 0.1

    def choose(self, visuals: Visuals, counts: Sequence[int]) -> Tensor:
        tokens, valid = visuals.tokens, visuals.valid
        # What has no direction (NaN, infinity) is nobody's neighbour, and does not come first.
        compared = valid & torch.linalg.vector_norm(tokens.float(), dim=-1).isfinite()
        near = nearest_cosine(tokens, compared).masked_fill(~compared, torch.inf)
        # Each of two tokens that are each other's neighbours has the same cosine, up to rounding.
        first = (near <= near.amin(1, keepdim=True) + TIE).long().argmax(1)
        return farthest_point(tokens, valid, counts, first, objective="kcenter")


def nearest_cosine(tokens: Tensor, valid: Tensor) -> Tensor:
    """float32 (G, M): the largest cosine of each token (G, M, D) with another valid one of its group.

    Rows are compared in blocks, so that no M x M matrix is held beyond 64 MiB.
    """
    unit = normalize(tokens.float(), dim=-1)
    groups, most, _ = unit.shape
    found, place = [], torch.arange(most, device=unit.device)
    for part in place.split(max(1, _AT_ONCE // max(1, groups * most))):
        like = unit[:, part] @ unit.transpose(1, 2)
        like = like.masked_fill((part[:, None] == place) | ~valid[:, None], -1.0)
        found.append(like.amax(2))
    return torch.cat(found, 1)
