"""The small base of pruners that choose tokens with a view to each other: a subset, not the highest of scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.bases import check_written
from vtokens.strategies.needs import Needs
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.visuals import Visuals


@dataclass(frozen=True)
class SubsetPruner(Strategy):
    """A pruner whose choice of one token depends on what else it chose, as greedy selections do.

    Subclasses write `choose`. It runs before the decoder.

    Attributes:
        keep: share or count per picture.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
        budget: "per_image" chooses from each picture as a whole, "per_frame" from each frame of a video and each view
            of an image by itself, which is not compared with the others.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    keep: Keep = 0.25
    positions: Literal["original", "compact"] = field(default="original", kw_only=True)
    budget: Literal["per_image", "per_frame"] = field(default="per_image", kw_only=True)
    of: Literal["left", "original"] = field(default="left", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget == "per_frame":
            object.__setattr__(self, "grouping", "frame")

    def choose(self, visuals: Visuals, counts: Sequence[int]) -> Tensor:
        """bool (G, M): the tokens that stay, exactly `counts[g]` valid ones of each group."""
        raise NotImplementedError

    def at_prompt(self, visuals: Visuals) -> Selection:
        counts = visuals.budgets(self.keep, self.of)
        return Selection(self.choose(visuals, counts), counts)

    def _completed(self, needs: Needs, facts: Facts) -> Needs:
        check_written(self, SubsetPruner, "choose", "at_prompt", "at_layer")
        return dataclasses.replace(needs, compact=self.positions == "compact")
