"""LLaVA-PruMerge: as many tokens stay as stand out of the tower's attention, each with what is like it added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.layout import Grouping
from vtokens.core.on_device import on_device
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.outliers import outliers
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Saliency, TowerKeys
from vtokens.strategies.views.visuals import Visuals

_NEAREST = 32
"""Tokens that are added to each one that stays."""


@register(
    "prumerge",
    paper="LLaVA-PruMerge, arXiv:2403.15388",
    venue="ICCV 2025",
    evidence="parity",
    shown="tests/strategies/test_prumerge.py::test_the_release_makes_the_same_tokens",
)
@dataclass(frozen=True)
class PruMerge(Strategy):
    """Keeps the patches whose [CLS] attention stands out, as many as there are, and adds those like them.

    a is the attention of the class token in the last tower block, taken for one wide head. What lies above
    Q3 + 1.5 (Q3 - Q1) stays. To each that stays, a_j x_j of the 32 tokens is added whose keys are most like its own.
    One more token, at the place of the last one dropped, becomes the sum of a_j x_j over what was dropped. With `plus`,
    every floor(floor(1 / r) / 3)-th token stays too, r being the share of those that stand out (PruMerge+). On towers
    without [CLS] a is the attention that a patch receives.

    Attributes:
        plus: PruMerge+.
        keep: None lets each view and frame decide; else that share or count per picture stays, the token of what was
            dropped counted in, and with `plus` a quarter of them for their attention.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    grouping: ClassVar[Grouping] = "frame"
    plus: bool = False
    keep: Keep | None = None
    positions: Literal["original", "compact"] = "original"
    of: Literal["left", "original"] = "left"

    def needs(self, facts: Facts) -> Needs:
        signals = (Saliency((-1,), heads="joint"), TowerKeys(-1))
        waits = "" if self.keep is not None else "how many tokens stand out"
        return Needs(signals=signals, blends=True, compact=self.positions == "compact", waits=waits)

    def at_prompt(self, visuals: Visuals) -> Selection:
        scores = visuals.saliency((-1,), heads="joint").masked_fill(~visuals.valid, 0)
        keys = visuals.tower_keys(-1).flatten(2)
        counts = None if self.keep is None else visuals.budgets(self.keep, self.of)
        if counts is None:
            centre = outstanding(scores, visuals.valid, self.plus)
        else:
            centre = self._fixed(visuals, scores, counts)
        own = torch.arange(centre.shape[1], device=centre.device)
        dropped = visuals.valid & ~centre
        rest = dropped & (own == torch.where(dropped, own, -1).amax(1, keepdim=True))
        if counts is not None:  # a single token has no other beside it
            alone = on_device([count < 2 for count in counts], centre.device)
            rest = rest & ~alone[:, None]
        keep = centre | rest
        # How many stand out only the device knows, and sums have to be as many: one read, which the engine is spared.
        kept = counts or tuple(keep.sum(1).tolist())
        order = keep.long().argsort(dim=1, descending=True, stable=True)[:, : max(kept)]
        return Selection(keep, kept, weights=_sums(scores, keys, visuals.valid, dropped, order, rest))

    def _fixed(self, visuals: Visuals, scores: Tensor, counts: tuple[int, ...]) -> Tensor:
        """bool (G, M): what stays for itself where a number is given."""
        pairs = [(count, whole) for count, whole in zip(counts, visuals.counts, strict=True)]
        most = [count if count in (1, whole) else max(0, count - 1) for count, whole in pairs]
        first = [min(1, count) if count < 4 else count // 4 for count in most] if self.plus else most
        best = visuals.best(scores, first).keep
        others = [count - own for count, own in zip(most, first, strict=True)]
        left = [whole - own for (_, whole), own in zip(pairs, first, strict=True)]
        # Of R others, the i-th of m is the floor(i R / m)-th: rank r is one where (r + 1) m / R passes a whole number.
        rank = (~best & visuals.valid).cumsum(1) - 1
        m, r = (on_device(part, rank.device)[:, None] for part in (others, left))
        r = r.clamp(min=1)
        spread = ((rank * m + r - 1) // r * r < (rank + 1) * m) & ~best & visuals.valid
        return best | spread


def outstanding(scores: Tensor, valid: Tensor, plus: bool) -> Tensor:
    """bool (G, M): tokens that stand out by interquartile range, at least one; with `plus` evenly spread ones too."""
    count, out = valid.sum(1, keepdim=True), outliers(scores, valid)
    best = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :1]
    out = out | (~out.any(1, keepdim=True) & (torch.arange(out.shape[1], device=out.device) == best) & valid)
    if not plus:
        return out
    rank = valid.cumsum(1) - 1
    step = ((1 / (out.sum(1, keepdim=True).clamp(min=1) / count.double())).floor() / 3).floor().clamp(min=1)
    return out | (valid & (rank % step == 0) & (rank < count - 1))


def _sums(scores: Tensor, keys: Tensor, valid: Tensor, dropped: Tensor, order: Tensor, rest: Tensor) -> Tensor:
    """float32 (G, K, M): what each token that stays, at the places `order` (G, K), is made of."""
    own = torch.arange(valid.shape[1], device=valid.device)
    at = order[..., None] == own
    keys = normalize(keys.float(), dim=-1)
    like = keys.gather(1, order[..., None].expand(-1, -1, keys.shape[2])) @ keys.transpose(1, 2)
    like = like.masked_fill(at | ~valid[:, None], -torch.inf)
    found = like.topk(min(_NEAREST, like.shape[2]), dim=2)
    near = torch.zeros_like(like).scatter(2, found.indices, found.values.isfinite().float())
    # A group that loses nothing stays as it is.
    near = near * dropped.any(1)[:, None, None]
    weights = at.float() + near * scores[:, None]
    return torch.where(rest.gather(1, order)[..., None], (dropped * scores)[:, None], weights)
