"""PruneSID: principal components make groups of tokens, and look-alikes inside a group give way to the salient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Saliency
from vtokens.strategies.subset_pruner import SubsetPruner
from vtokens.strategies.views.visuals import Visuals


@register(
    "prunesid",
    paper="PruneSID (repository ZhengyaoFang/PruneSID)",
    venue="ICLR 2026",
    evidence="text",
    shown="tests/strategies/test_prunesid.py::test_it_is_the_definition_by_loops",
)
@dataclass(frozen=True)
class PruneSID(SubsetPruner):
    """Keeps of each semantic group its most salient tokens, none of them too like another, in proportion to how many.

    A token's group is the principal component of sigmoid(features) on which it loads most, of K / 4 for K tokens kept.
    In a group a token gives way to a more salient one if their cosine is above K / 32 times the picture's mean. Groups
    share the budget by how many are left, each at least one and, as long as others have room, at most 5 ceil(K / 64).

    Attributes:
        keep: share or count per picture.
        seed: of the randomised components.
    """

    keep: Keep = 0.1
    seed: int = 0

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(),), waits="which tokens suppress which, and how many are left")

    def choose(self, visuals: Visuals, counts: Sequence[int]) -> Tensor:
        tokens, salient, device = visuals.tokens.detach().float(), visuals.saliency(), visuals.valid.device
        chosen = np.zeros(visuals.valid.shape, dtype=bool)
        for number, (size, count) in enumerate(zip(visuals.counts, counts, strict=True)):
            own, score = tokens[number, :size].nan_to_num(), salient[number, :size].cpu().numpy()
            if count:
                group = components(own, max(1, count // 4), self.seed).abs().argmax(1).cpu().numpy()
                unit = normalize(own, dim=-1)
                like = (unit @ unit.T).cpu().numpy()
                mean = (like.sum(dtype=np.float64) - np.trace(like)) / max(1, size * (size - 1))
                chosen[number, _picked(group, score, like, count / 32 * mean, count)] = True
        return on_device(chosen, device)


def components(tokens: Tensor, most: int, seed: int) -> Tensor:
    """float32 (N, q): how tokens (N, D) load on the q = min(most, N, D) first principal components of their sigmoids.

    Randomised subspace iteration, twice (Halko et al., arXiv:0909.4061, algorithm 5.1 behind 4.4), from a start that
    follows from the seed.
    """
    values = tokens.sigmoid()
    values = (values - values.mean(1, keepdim=True)).T  # (D, N), each token's mean taken off
    rank = min(most, *values.shape)
    start = torch.randn(values.shape[1], rank, generator=torch.Generator().manual_seed(seed))
    start = on_device(start, values.device)
    basis = torch.linalg.qr(values @ start).Q
    for _ in range(2):
        basis = torch.linalg.qr(values @ torch.linalg.qr(values.T @ basis).Q).Q
    return torch.linalg.svd(basis.T @ values, full_matrices=False).Vh.T


def _picked(group: np.ndarray, score: np.ndarray, like: np.ndarray, threshold: float, count: int) -> np.ndarray:
    """The places of `count` tokens: in each group those that nothing suppressed first, by score."""
    order = np.argsort(-score, kind="stable")
    stays = np.zeros(len(score), dtype=bool)
    open_ = np.ones(len(score), dtype=bool)
    for one in order:  # each choice needs those before it
        if open_[one]:
            stays[one] = True
            open_ &= ~((group == group[one]) & (like[one] > threshold))
    quota = quotas(np.bincount(group), np.bincount(group[stays], minlength=group.max() + 1), count)
    ranked = order[np.lexsort((~stays[order], group[order]))]
    first = np.cumsum(np.bincount(group)) - np.bincount(group)
    return ranked[np.arange(len(ranked)) - first[group[ranked]] < quota[group[ranked]]]


def quotas(sizes: np.ndarray, left: np.ndarray, count: int) -> np.ndarray:
    """int64 (groups,), a sum of `count`: of groups with so many tokens, so many of which nothing suppressed."""
    least, most = np.minimum(1, sizes), np.minimum.reduce([np.full(len(sizes), 5 * math.ceil(count / 64)), sizes, left])
    while most.sum() < count:
        most = np.minimum(most + 1, sizes)
    more = max(0, count - int(least.sum()))
    # np.rint takes the even neighbour of a half, as torch's does.
    shared = np.diff(np.rint(np.cumsum(left / left.sum()) * more), prepend=0).astype(np.int64)
    found = np.minimum(shared + least, most)
    for one in np.argsort(-left, kind="stable"):
        found[one] += min(most[one] - found[one], count - int(found.sum()))
    return found
