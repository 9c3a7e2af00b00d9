"""The scans of VScan: what an early block of the tower sees in each window, and what the last one sees in all."""

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
from vtokens.core.ranks import rank_in
from vtokens.kernels import nearest_centre
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Saliency
from vtokens.strategies.views.squares import places
from vtokens.strategies.views.visuals import Visuals


@register(
    "scans",
    paper="VScan, arXiv:2505.22654",
    venue="TMLR 2026",
    evidence="text",
    shown="tests/strategies/test_scans.py::test_what_stays_and_what_it_becomes_are_those_of_loops",
)
@dataclass(frozen=True)
class Scans(Strategy):
    """Keeps what early [CLS] attention finds in each window and late in the whole picture, and merges the rest.

    Of K tokens, a share `local` is spread evenly over windows of `window` x `window` cells, rounded down in each: those
    that [CLS] attends to most in an early block of the tower. The others are those of the rest that it attends to most
    in the block that makes the features. Each token that is left goes into the one kept that is most like it (cosine
    of projected features): a kept token is the plain mean of itself and of these. On towers without [CLS] the score is
    the attention that a patch receives.

    Attributes:
        keep: share or count per picture; tiles of one share it out.
        local: the share of these that windows choose.
        window: cells along one side of a window.
        shallow: how deep the early block is, as a share of the tower (block 6 of 24).
        merge: False drops what is not kept.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    grouping: ClassVar[Grouping] = "view"
    keep: Keep = 1 / 6
    local: float = 0.5
    window: int = 6
    shallow: float = 0.25
    merge: bool = True
    positions: Literal["original", "compact"] = "original"
    of: Literal["left", "original"] = "left"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("local", self.local)
        check_share("shallow", self.shallow)
        if self.window < 1:
            raise ValueError(f"window={self.window!r} is out of range: an int from 1 on is allowed")

    def needs(self, facts: Facts) -> Needs:
        signals = (Saliency(), Saliency((self.prepare(facts),)))
        return Needs(signals=signals, blends=self.merge, compact=self.positions == "compact")

    def prepare(self, facts: Facts) -> int:
        """The early block."""
        return max(0, round(self.shallow * facts.tower_depth) - 1)

    def at_prompt(self, visuals: Visuals) -> Selection:
        counts, valid = visuals.budgets(self.keep, self.of), visuals.valid
        early, late = visuals.saliency((visuals.prepared,)), visuals.saliency()
        part = places(visuals, self.window)[..., 3]
        place = rank_in(part, early, valid)
        # Windows are counted on the device, as earlier strategies may have emptied some.
        windows = ((place == 0) & valid).sum(1, keepdim=True).clamp(min=1)
        asked = on_device([int(count * self.local) for count in counts], valid.device)[:, None]
        local = valid & (place < asked // windows)
        keep = visuals.best(late.masked_fill(local, torch.inf), counts).keep
        if not self.merge:
            return Selection(keep, counts)
        into, weights = _merged(visuals.tokens, valid, keep)
        return Selection(keep, counts, weights=weights, into=into)


def _merged(tokens: Tensor, valid: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """(G, M): the kept token that each goes into, and how much of it: equal parts of all that do."""
    own = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
    # Of unit vectors the nearest is the most alike.
    found = nearest_centre(normalize(tokens.float(), dim=-1), valid, keep)
    into = torch.where(keep | (found < 0), own, found)
    many = torch.zeros(valid.shape, device=valid.device).scatter_add(1, into, valid.float())
    return into, 1 / many.gather(1, into).clamp(min=1)
