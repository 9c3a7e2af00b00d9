"""VMTC: the tokens that the vision tower attends to stay, and the others become means of clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Saliency
from vtokens.strategies.views.visuals import Visuals

_TIE = 1e-4
"""Two members of a cluster are equally far from its mean: what rounding tells apart by less is a tie."""


@register(
    "vmtc",
    paper="VMTC and CMAI, arXiv:2411.15453",
    evidence="text",
    shown="tests/strategies/test_vmtc.py::test_clusters_are_those_of_k_means_by_hand",
)
@dataclass(frozen=True)
class Vmtc(Strategy):
    """Keeps the most salient visual tokens, and merges the others by K-means, a mean for each cluster.

    A cluster's mean stands at the place of the member nearest to it. Means start as tokens that are evenly spaced among
    those to be merged, so that the same picture always gives the same clusters.

    Attributes:
        keep: share or count per picture, primary tokens and means together.
        primary: the share of these that are primary; 1 merges nothing, and drops the others.
        rounds: of K-means.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    keep: Keep = 0.25
    primary: float = 0.5
    rounds: int = 10
    positions: Literal["original", "compact"] = "original"
    of: Literal["left", "original"] = "left"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("primary", self.primary)
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds} is out of range: 1 and above is allowed")

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(),), compact=self.positions == "compact")

    def at_prompt(self, visuals: Visuals) -> Selection:
        counts = visuals.budgets(self.keep, self.of)
        primary = [int(self.primary * count + 0.5) for count in counts]
        chosen = visuals.best(visuals.saliency(), primary).keep
        clusters = [count - first for count, first in zip(counts, primary, strict=True)]
        if max(clusters, default=0) == 0:
            return Selection(chosen, counts)
        rest, tokens = visuals.valid & ~chosen, visuals.tokens.float()
        cluster, far = k_means(tokens, rest, clusters, self.rounds)
        slot = torch.arange(rest.shape[1], device=rest.device).expand_as(rest)
        room = _TIE * (far + tokens.square().sum(2))
        middle = _middles(cluster, far.masked_fill(~rest, torch.inf), room, max(clusters))
        first = rest & (middle.gather(1, cluster) == slot)
        # Where a cluster lost all of its members, the tokens farthest from their means fill the budget by themselves.
        score = torch.where(chosen, 4.0, torch.where(first, 3.0, far / (1 + far)))
        keep = visuals.best(score, counts).keep
        joins = rest & (first | ~keep) & (on_device(clusters, rest.device) > 0)[:, None]
        size = torch.zeros_like(score).scatter_add(1, cluster, joins.float()).gather(1, cluster)
        weights = torch.where(joins, 1 / size.clamp(min=1), keep.float())
        return Selection(keep, counts, weights=weights, into=torch.where(joins, middle.gather(1, cluster), slot))


def k_means(tokens: Tensor, valid: Tensor, clusters: list[int], rounds: int) -> tuple[Tensor, Tensor]:
    """int64 (G, M), the cluster of each of `tokens` (G, M, D), and float32 (G, M), its squared distance from the mean.

    Args:
        tokens: float32.
        valid: bool (G, M), those that are clustered.
        clusters: how many of each group, at most; 0 in a group leaves every token in cluster 0.
        rounds: how often tokens are assigned and means taken.
    """
    count, many = valid.sum(1, keepdim=True), on_device(clusters, valid.device)[:, None]
    number = torch.arange(max(clusters), device=valid.device)
    # The first tokens of the means, by their ranks among those that are clustered.
    start = ((2 * number + 1) * count) // (2 * many.clamp(min=1))
    order = (~valid).long().argsort(dim=1, stable=True)
    at = order.gather(1, start.clamp(max=order.shape[1] - 1))
    means = tokens.gather(1, at[..., None].expand(-1, -1, tokens.shape[2]))
    real, squares = number < many, tokens.square().sum(2)
    for step in range(rounds + 1):
        far = squares[..., None] - 2 * tokens @ means.transpose(1, 2) + means.square().sum(2)[:, None]
        nearest, cluster = far.masked_fill(~real[:, None], torch.inf).min(2)
        if step < rounds:
            one = torch.nn.functional.one_hot(cluster, len(number)).to(tokens) * valid[..., None]
            size = one.sum(1)[..., None]
            means = torch.where(size > 0, one.transpose(1, 2) @ tokens / size.clamp(min=1), means)
    return cluster, torch.where(valid & nearest.isfinite(), nearest.clamp(min=0), 0)


def _middles(cluster: Tensor, far: Tensor, room: Tensor, many: int) -> Tensor:
    """int64 (G, K): where the token nearest to the mean of each cluster is, the first of those up to `room`."""
    groups, size = cluster.shape
    least = far.new_full((groups, many), torch.inf).scatter_reduce(1, cluster, far, "amin")
    slot = torch.arange(size, device=cluster.device).expand_as(cluster)
    place = torch.where(far <= least.gather(1, cluster) + room, slot, size)
    return torch.full_like(least, size, dtype=torch.long).scatter_reduce(1, cluster, place, "amin").clamp(max=size - 1)
