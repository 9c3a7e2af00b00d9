"""What a `cache` strategy sees: the keys that a decoder layer has cached once a pass went through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vtokens.core.budget import Keep, budget
from vtokens.core.layout import Layout
from vtokens.core.on_device import on_device
from vtokens.core.ranks import falling_rank
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.memory import Logging


@dataclass
class Keys(Logging):
    """S cached keys of one decoder layer, those of the pass under way last.

    Attributes:
        layer: decoder layer.
        query: (B, H, W, D), the rows of the pass, rotary embedding applied.
        key, value: (B, H_kv, S, D), as they are cached; H / H_kv query heads share one.
        scaling: the factor on the products.
        visual: bool (B, S), keys that hold visual tokens; of earlier passes those that are known to.
        valid: bool (B, S), False on padding; None if there is none.
        layout: of the rows of a pass that brings pictures; None in others.
        prepared: what the strategy's `prepare` made.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    visual: Tensor
    valid: Tensor | None
    layout: Layout | None
    prepared: Any = None
    metrics: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_image_prefill(self) -> bool:
        """The pass brings pictures: what of their keys stays is decided now."""
        return self.layout is not None

    @property
    def past(self) -> int:
        """Keys cached before this pass."""
        return self.key.shape[2] - self.query.shape[2]

    def budgets(self, keep: Keep) -> tuple[int, ...]:
        """Visual keys to keep of each sample, of those that this pass brings: the sum of its pictures' budgets."""
        if self.layout is None:
            return (0,) * len(self.key)
        return tuple(self.layout.per_sample([budget(count, keep) for count in self.layout.counts]))

    def top(self, scores: Tensor, keep: Keep) -> Selection:
        """Keep the visual keys with the highest scores of those that this pass brings; all other keys stay.

        Args:
            scores: floating (B, S), or (B, H_kv, S) so that each head keeps keys of its own, as many as the others.
            keep: share or count per picture.

        Raises:
            ValueError: scores of another shape.
        """
        batch, heads, length = self.key.shape[:3]
        if scores.shape not in ((batch, length), (batch, heads, length)):
            raise ValueError(
                f"scores have the shape {tuple(scores.shape)}: one for each key is needed, {(batch, length)}, or for "
                f"each key of each head, {(batch, heads, length)}"
            )
        place = torch.arange(length, device=self.key.device)
        candidates, counts = self.visual & (place >= self.past), self.budgets(keep)
        if scores.dim() == 3:
            candidates = candidates[:, None].expand_as(scores)
        ranked = scores.float().masked_fill(scores.isnan() | ~candidates, -torch.inf)
        rank = falling_rank(ranked, candidates)
        limit = on_device(counts, rank.device).view(-1, *[1] * (rank.dim() - 1))
        there = padding = [0] * batch
        if self.layout is not None:
            there = self.layout.per_sample()
            padding = [lead + trail for lead, trail in zip(self.layout.lead, self.layout.trail, strict=True)]
        left = zip(there, counts, padding, strict=True)
        return Selection(~candidates | (rank < limit), tuple(length - had + kept - pad for had, kept, pad in left))
