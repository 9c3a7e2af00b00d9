"""Strategies that look, and one that covers things up: what the benchmarks use to say why a figure is what it is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vtokens.scenes.world import CELL, GRID, IMAGE, PATCH
from vtokens.strategies import Facts, Needs, Selection, Strategy, Visuals
from vtokens.strategies.attend.vhr import Vhr
from vtokens.strategies.views.heads import Heads

_SIDE, _PER_CELL = IMAGE // PATCH, CELL // PATCH


@dataclass(frozen=True)
class Seen:
    """One decoder layer at prefill, for a batch.

    weights: float32 (B, H, K), what each head attends to from the last prompt position. visual, valid: bool (B, K).
    phi: float32 (B, K), the largest activation of each position over its root mean square, as it enters the layer,
    and dim: int64 (B, K), where it is. chosen: bool (B, H), the heads that VHR reinforces; None where it does not run.
    """

    layer: int
    weights: Tensor
    visual: Tensor
    valid: Tensor
    phi: Tensor
    dim: Tensor
    chosen: Tensor | None


@dataclass(frozen=True)
class Watch(Strategy):
    """Appends a `Seen` of every decoder layer to `log`, and changes nothing. Name it last."""

    log: deque[Seen] = field(default_factory=deque)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=range(facts.depth))

    def at_attend(self, heads: Heads) -> None:
        if not heads.is_image_prefill:
            return
        query = heads.last.gather(heads.query).float()
        key = heads.key.float().repeat_interleave(query.shape[1] // heads.key.shape[1], dim=1)
        valid = torch.ones_like(heads.visual) if heads.valid is None else heads.valid
        scores = (query @ key.transpose(2, 3)).squeeze(2) * heads.scaling
        weights = scores.masked_fill(~valid[:, None], -torch.inf).softmax(-1)
        hidden = heads.hidden.float()
        phi, dim = (hidden.abs() / hidden.square().mean(-1, keepdim=True).add(1e-6).sqrt()).max(-1)
        chosen = heads.recall("vhr.heads")
        self.log.append(Seen(heads.layer, weights, heads.visual, valid, phi, dim, chosen))


@dataclass(frozen=True)
class Hide(Strategy):
    """Takes the visual tokens of some cells of the 4 x 4 grid away, those that `cells` names for each picture."""

    cells: tuple[tuple[int, ...], ...] = ()

    def at_prompt(self, visuals: Visuals) -> Selection:
        hidden = torch.zeros_like(visuals.valid)
        for row, cells in enumerate(self.cells):
            hidden[row] = torch.isin(visuals.cells[row], torch.tensor([p for c in cells for p in patches(c)]).long())
        return Selection(visuals.valid & ~hidden)


@dataclass(frozen=True)
class Other(Vhr):
    """VHR that scales other heads than it should: the ones it leaves, half of them by lot, or all of them."""

    which: str = "left"

    def _choose(self, heads: Heads) -> Tensor:
        taken = super()._choose(heads)
        if self.which == "lot":
            luck = torch.rand(taken.shape, generator=torch.Generator().manual_seed(heads.layer))
            other = luck > luck.quantile(0.5, dim=1, keepdim=True)
        else:
            other = ~taken if self.which == "left" else torch.ones_like(taken)
        return other & heads.visual.any(1, keepdim=True)


def patches(cell: int) -> list[int]:
    """The visual tokens that show cell `cell` of the 4 x 4 grid."""
    top, left = (_PER_CELL * place for place in divmod(cell, GRID))
    return [(top + y) * _SIDE + left + x for y in range(_PER_CELL) for x in range(_PER_CELL)]
