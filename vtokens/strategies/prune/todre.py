"""ToDRE: a diverse subset before the language model, and an exit of all visual tokens late in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.kernels import farthest_point, first_most
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention, Saliency
from vtokens.strategies.views.visuals import Visuals

_PIVOT = (-1,)
"""The pivot is the token that the last tower block attends to most, as in the paper; not the feature block."""


@register(
    "todre",
    paper="ToDRE, arXiv:2505.18757v2",
    evidence="text",
    shown="tests/strategies/test_todre.py::test_stage_one_is_the_greedy_loop",
)
@dataclass(frozen=True)
class Todre(Strategy):
    """Keeps a diverse subset grown from the most salient token, then drops all visual tokens at 7/8 depth.

    Stage 1 starts from the token with the highest saliency (of the thumbnail, where a picture has one) and adds the one
    least similar (cosine) to those chosen.
    Stage 2 measures one late layer: where neither text attends to visual tokens nor they to text, by more than
    `exit_threshold` of the mass, the layers after it run without them. `keep=1.0` switches both stages off.

    Attributes:
        keep: share or count per picture.
        objective: "maxsum" (paper v2: smallest summed similarity) or "kcenter" (v1: farthest-first).
        exit_threshold: tau of stage 2 as a share of attention; None switches stage 2 off, 0 never exits.
        exit_depth: the layer measured, as a share of the depth.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    keep: Keep = 0.1
    objective: Literal["maxsum", "kcenter"] = "maxsum"
    exit_threshold: float | None = 0.1
    exit_depth: float = 0.875
    positions: Literal["original", "compact"] = "original"
    of: Literal["left", "original"] = "left"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exit_threshold is not None and not 0 <= self.exit_threshold < math.inf:
            raise ValueError(f"exit_threshold={self.exit_threshold!r} is not a share of attention: 0 or more, or None")
        if not 0 < self.exit_depth < 1:
            raise ValueError(f"exit_depth={self.exit_depth!r} is out of range: a share of the depth in (0, 1)")

    def _exit_layer(self, facts: Facts) -> int | None:
        # The paper counts layers from 1: the layer at 7L/8 is measured, those after it run without visual tokens. Where
        # that one has no attention, the nearest that has stands for it.
        layer = int(self.exit_depth * facts.depth)
        layer = facts.nearest_attending(layer - 1) + 1 if layer else 0
        return layer if self.exit_threshold is not None and 1 <= layer < facts.depth else None

    def needs(self, facts: Facts) -> Needs:
        layer, compact = self._exit_layer(facts), self.positions == "compact"
        if layer is None:
            return Needs(signals=(Saliency(_PIVOT),), compact=compact)
        late = (Attention(layer - 1, "text"), Attention(layer - 1, "visual"))
        return Needs(signals=(Saliency(_PIVOT), *late), layer=(layer,), compact=compact)

    def at_prompt(self, visuals: Visuals) -> Selection:
        candidates = visuals.valid & _in_thumbnail(visuals)
        salient = visuals.saliency(_PIVOT)
        start = first_most(salient.masked_fill(salient.isnan() | ~candidates, -torch.inf))
        counts = visuals.budgets(self.keep, self.of)
        keep = farthest_point(visuals.tokens, visuals.valid, counts, start, objective=self.objective)
        return Selection(keep, counts)

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        layout, threshold = visuals.layout, self.exit_threshold or 0.0
        to_visual = _mass(visuals.received(index - 1, "text"), layout.visual)
        to_text = _mass(visuals.received(index - 1, "visual"), layout.words_after)
        leave = (to_visual < threshold) & (to_text < threshold)
        owner = on_device(layout.owner, leave.device, dtype=torch.long)
        return Selection(visuals.valid & ~leave[owner][:, None])


def _in_thumbnail(visuals: Visuals) -> Tensor:
    """bool (G, M): tokens of the picture's first view; all of them where an earlier strategy left none of it."""
    first = visuals.at_cells([picture.view == 0 for picture in visuals.layout.pictures]) & visuals.valid
    return first | ~first.any(1, keepdim=True)


def _mass(received: Tensor, keys: Tensor) -> Tensor:
    """(B,): the share of attention (B, N) that falls on `keys`."""
    return torch.where(keys, received, 0.0).sum(1)
