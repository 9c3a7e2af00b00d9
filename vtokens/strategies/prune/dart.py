"""DART: a few pivots, and what is least like each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.core.ranks import rank
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layer
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import LayerKeys
from vtokens.strategies.views.visuals import Visuals


@register(
    "dart",
    paper="DART, arXiv:2502.11494",
    venue="EMNLP 2025",
    evidence="text",
    shown="tests/strategies/test_dart.py::test_each_pivot_in_turn_takes_what_is_least_like_it",
)
@dataclass(frozen=True)
class Dart(Strategy):
    """Keeps visual tokens with long keys, and for each of these and of such words what duplicates it least.

    Pivots are the visual tokens and the words whose keys in the layer before have the largest L1 norm, all heads
    together. One after the other, in rising places, each takes an equal part of the budget: the tokens not taken yet
    whose states, behind the decoder's last norm, have the lowest cosine with its own. Visual pivots stay themselves.

    Attributes:
        keep: share or count per picture; all of it, pivots included.
        layer: 1 to depth - 1; keys are those of the layer before.
        visual_pivots: of each picture.
        text_pivots: of the prompt.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    keep: Keep = 0.222
    layer: int = 2
    visual_pivots: int = 4
    text_pivots: int = 4
    positions: Literal["original", "compact"] = "original"
    of: Literal["left", "original"] = "left"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.visual_pivots, self.text_pivots) < 0 or not self.visual_pivots + self.text_pivots:
            raise ValueError(
                f"visual_pivots={self.visual_pivots}, text_pivots={self.text_pivots}: 0 or more of each are allowed, "
                "and one in all is needed"
            )

    def needs(self, facts: Facts) -> Needs:
        layer = check_layer("layer", self.layer, facts.depth, first=1)
        compact = self.positions == "compact"
        return Needs(signals=(LayerKeys(layer - 1),), layer=(layer,), norm=True, compact=compact)

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        counts = visuals.budgets(self.keep, self.of)
        lengths = visuals.layer_keys(index - 1).float().abs().sum((2, 3))
        own = visuals.best(visuals.grouped(lengths), [min(count, self.visual_pivots) for count in counts]).keep
        unit = normalize(visuals.normed(visuals.hidden).float(), dim=-1)
        tokens, (pivots, real) = visuals.grouped(unit), self._pivots(visuals, lengths, own, unit)
        chosen, number = own, pivots.shape[1]
        for place in range(number):
            alike = (tokens * pivots[:, place, None]).sum(-1)
            # A prompt with fewer words than pivots lets what is first have their part.
            alike = torch.where(real[:, place, None], alike, 0.0)
            order = rank(alike.masked_fill(chosen | ~visuals.valid, torch.inf))
            rest = [max(0, count - self.visual_pivots) for count in counts]
            part = [left // number + (place < left % number) for left in rest]
            chosen = chosen | ((order < on_device(part, order.device)[:, None]) & visuals.valid)
        return Selection(chosen, counts)

    def _pivots(self, visuals: Visuals, lengths: Tensor, own: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """(G, P, D), the states of a picture's pivots in rising places; bool (G, P), which of them there are."""
        place = torch.arange(lengths.shape[1], device=lengths.device).expand_as(lengths)
        owner = on_device(visuals.layout.owner, lengths.device, dtype=torch.long)
        words = visuals.text("all")
        order = rank(-lengths.masked_fill(~words, -torch.inf))
        chosen = (words & (order < self.text_pivots))[owner]
        at = torch.where(own, visuals.grouped(place), -1)
        chosen = torch.cat([chosen, torch.zeros_like(chosen[:, :1])], 1)
        chosen = chosen.scatter(1, torch.where(own, at, chosen.shape[1] - 1), True)[:, :-1]
        number = self.visual_pivots + self.text_pivots
        found = chosen.long().argsort(dim=1, descending=True, stable=True)[:, :number]
        return unit[owner[:, None], found], chosen.gather(1, found)
