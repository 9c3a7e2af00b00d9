"""VisionZip: salient tokens stay, and the others are added to a few evenly spread ones that they are like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.kernels import TIE
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Saliency, TowerKeys
from vtokens.strategies.views.visuals import Visuals


@register(
    "visionzip",
    paper="VisionZip, arXiv:2412.04467",
    venue="CVPR 2025",
    evidence="parity",
    shown="tests/strategies/test_visionzip.py::test_the_release_makes_the_same_tokens",
)
@dataclass(frozen=True)
class VisionZip(Strategy):
    """Keeps the patches that [CLS] attends to most, and adds the others to a few evenly spread ones.

    The salient ones are dominant tokens. Of the R others every floor(R / C)-th is a contextual token, C in all. Each of
    the rest goes to the contextual token whose key (of the tower's feature block, mean over heads) is most like its
    own, and a contextual token becomes its feature + the mean of those that went to it. On towers without [CLS] the
    score is the attention that a patch receives.

    Attributes:
        keep: share or count per picture, dominant and contextual tokens together.
        contextual: the share of these that are contextual; 10 of 64 in the release, 0 drops all that is not dominant.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    keep: Keep = 0.25
    contextual: float = 0.15625
    positions: Literal["original", "compact"] = "original"
    of: Literal["left", "original"] = "left"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("contextual", self.contextual)

    def needs(self, facts: Facts) -> Needs:
        signals = (Saliency(), TowerKeys()) if self.contextual else (Saliency(),)
        return Needs(signals=signals, blends=self.contextual > 0, compact=self.positions == "compact")

    def at_prompt(self, visuals: Visuals) -> Selection:
        counts = visuals.budgets(self.keep, self.of)
        extra = [int(count * self.contextual + 0.5) for count in counts]
        scores = visuals.saliency()
        if not any(extra):
            return visuals.best(scores, counts)
        dominant = [count - more for count, more in zip(counts, extra, strict=True)]
        return zipped(visuals, scores, visuals.tower_keys().mean(2), dominant, extra)


def zipped(visuals: Visuals, scores: Tensor, keys: Tensor, dominant: list[int], contextual: list[int]) -> Selection:
    """Dominant tokens by scores (G, M), and contextual ones by keys (G, M, d); so many of each group."""
    counts = tuple(map(sum, zip(dominant, contextual, strict=True)))
    best = visuals.best(scores, dominant).keep
    rest = visuals.valid & ~best
    pairs = zip(visuals.counts, dominant, contextual, strict=True)
    steps = [max(1, (count - own) // max(1, more)) for count, own, more in pairs]
    step, most = (on_device(part, rest.device)[:, None] for part in (steps, contextual))
    rank = rest.cumsum(1) - 1
    target = rest & (rank % step == 0) & (rank < step * most)

    own = torch.arange(rest.shape[1], device=rest.device).expand_as(rest)
    where = own.masked_fill(~target, rest.shape[1]).sort(1).values[:, : max(contextual)]
    safe = where.clamp(max=rest.shape[1] - 1)
    keys = normalize(keys.float(), dim=-1)
    like = keys @ keys.gather(1, safe[..., None].expand(-1, -1, keys.shape[2])).transpose(1, 2)
    like = like.masked_fill((where == rest.shape[1])[:, None], -torch.inf)
    # Of equally like ones, up to rounding, the first.
    near = torch.where(like >= like.amax(2, keepdim=True) - TIE, safe[:, None], rest.shape[1] - 1).amin(2)

    joins = rest & ~target & (most > 0)
    into = torch.where(joins, near, own)
    members = torch.zeros_like(keys[..., 0]).scatter_add(1, into, joins.float())
    weights = torch.where(joins, 1 / members.gather(1, into).clamp(min=1), 1.0)
    return Selection(best | target, counts, weights=weights, into=into)
