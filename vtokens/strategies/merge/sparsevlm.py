"""SparseVLM: words that the picture is about choose, and the best of what they leave is merged into a few tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.core.ranks import rank
from vtokens.kernels import density_peaks, nearest_centre
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention
from vtokens.strategies.staged import StagedPruner
from vtokens.strategies.views.visuals import Visuals

_RECYCLED, _CLUSTER = 0.3, 10
"""The share of the deleted tokens that is recycled, and how many of them go into one."""


@register(
    "sparsevlm",
    paper="SparseVLM, arXiv:2410.04417",
    venue="ICML 2025",
    evidence="parity",
    shown="tests/strategies/test_sparsevlm.py::test_clusters_are_those_of_the_release",
)
@dataclass(frozen=True)
class SparseVlm(StagedPruner):
    """Keeps at three depths what the words that the picture is about attend to, and recycles the best of the rest.

    Raters are the words to which the picture attends more than to the mean word, where both enter the decoder
    (`Attention(rows="raters")`). A stage scores tokens by the mean attention of raters and heads in the layer before.
    Of those it deletes, 30% (and one) with the highest scores become a tenth as many (and one): clusters around density
    peaks, each the mean of its members, at the place of its centre.

    Attributes:
        keep: share or count per picture that the last stage leaves, its recycled tokens not counted.
        layers: the decoder layers before which the stages run, as numbers or as shares of the depth (behind layers 2, 6
            and 15 of 32).
        before: the shares that the earlier stages leave; None: those of the release, for keep=0.191, 0.0625 and 0.0295
            ("192", "128" and "64" tokens), and for another `keep` what lies between.
        recycle: False drops what is not kept.
    """

    schedules: ClassVar[tuple[tuple[float, ...], ...]] = (
        (300 / 576, 200 / 576, 110 / 576),
        (303 / 576, 110 / 576, 36 / 576),
        (66 / 576, 30 / 576, 17 / 576),
    )
    keep: Keep = 0.191
    layers: tuple[int | float, ...] = (0.09375, 0.21875, 0.5)
    before: tuple[float, ...] | None = None
    recycle: bool = True

    def reads(self, layer: int) -> Needs:
        return Needs(signals=(Attention(layer - 1, "raters"),))

    def needs(self, facts: Facts) -> Needs:
        return replace(super().needs(facts), blends=self.recycle)

    def score(self, visuals: Visuals, index: int) -> Tensor:
        return visuals.attention(index - 1, "raters")

    def at_layer(self, visuals: Visuals, index: int) -> Selection | None:
        counts = self.counts(visuals, index)
        if counts == list(visuals.counts):
            return None
        scores = self.score(visuals, index)
        kept = visuals.best(scores, counts)
        return self._recycled(visuals, kept.keep, counts, scores) if self.recycle else kept

    def _recycled(self, visuals: Visuals, kept: Tensor, counts: list[int], scores: Tensor) -> Selection:
        pooled, clusters = zip(*map(recycled, visuals.counts, counts), strict=True)
        pool = visuals.best(scores.masked_fill(kept, -torch.inf), pooled).keep
        slots = pool.long().argsort(dim=1, descending=True, stable=True)[:, : max(pooled)]
        real, tokens = pool.gather(1, slots), visuals.tokens
        tokens = tokens.gather(1, slots[..., None].expand(-1, -1, tokens.shape[2]))
        many = on_device(clusters, slots.device)[:, None]
        centre = (rank(-density_peaks(tokens, real, clusters)) < many) & real
        into = nearest_centre(tokens, real, centre).clamp(min=0)
        members = torch.zeros_like(into).scatter_add(1, into, real.long()).gather(1, into).clamp(min=1)
        # What is not recycled goes into itself, and is gone unless it was kept.
        own = torch.arange(kept.shape[1], device=slots.device).expand_as(kept)
        where = own.scatter(1, slots, torch.where(real, slots.gather(1, into), slots))
        weights = torch.ones_like(scores, dtype=torch.float32).scatter(1, slots, torch.where(real, 1 / members, 1.0))
        keep = kept.scatter(1, slots, kept.gather(1, slots) | centre)
        total = tuple(count + more for count, more in zip(counts, clusters, strict=True))
        return Selection(keep, total, weights=weights, into=where)


def recycled(count: int, kept: int) -> tuple[int, int]:
    """How many of `count` tokens are recycled where `kept` of them stay, and how many they become."""
    if kept >= count:
        return 0, 0
    pooled = int((count - kept) * _RECYCLED) + 1
    return pooled, pooled // _CLUSTER + 1
