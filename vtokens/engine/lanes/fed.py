"""Inputs of the lane of a negative prompt (`Fed`), and the pass with pictures that they are made from (`Start`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vtokens.core.layout import Layout
from vtokens.engine.state.both_ways import BothWays
from vtokens.engine.state.injection import Injection
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.request import Request
from vtokens.engine.state.tower_run import TowerRun
from vtokens.engine.state.view import columns_at, gather


@dataclass(frozen=True)
class Start:
    """What a negative prompt is made from: a pass with pictures, and what the decoder was given in it.

    Attributes:
        request: the call that brought the pictures.
        lane: the lane of the prompt.
        pictures: that lane's.
        embeds: (B, N, D), before anything was dropped.
        positions: int64 (B, N) or (C, B, N), rotary positions.
        side: what else the decoder was given that every lane is given.
        per_layer: (B, N, layers, P), what it makes inputs of layers of beside states; None if they get none.
    """

    request: Request
    lane: Lane
    pictures: Pictures
    embeds: Tensor
    positions: Tensor
    side: Mapping[str, Any]
    per_layer: Tensor | None = None


@dataclass(frozen=True)
class Fed:
    """What the lane of the negative prompt is fed in one pass.

    Attributes:
        embeds: (B, T, D).
        valid: bool (B, T), False on padding; None if there is none.
        positions: int64 (B, T) or (C, B, T), rotary positions.
        column: int64 (B, N), the negative prompt's column for each position of the real pass, below 0 where it has
            none; None if they are the same.
        layout: where its visual tokens sit; None if it has none.
        runs: what the tower saw of its pictures.
        renumbered: positions are its own, so that those of what follows lag behind or run ahead.
        injection: what is added to its states behind the first layers; None if nothing.
        both_ways: which of its positions see what comes after them; None if none do.
        per_layer: (B, T, layers, P), as in `Start`.
        ids: int64 (B, T), token ids of a prompt of its own; None if they are those of the prompt.
    """

    embeds: Tensor
    valid: Tensor | None
    positions: Tensor
    column: Tensor | None = None
    layout: Layout | None = None
    runs: Sequence[TowerRun] = ()
    renumbered: bool = False
    injection: Injection | None = None
    both_ways: BothWays | None = None
    per_layer: Tensor | None = None
    ids: Tensor | None = None

    def of(self, columns: Tensor, real: Tensor | None) -> Fed:
        """Some columns (B, T'), in order; `real` (B, T') is False where a sample has fewer."""
        back = columns_at(columns, real, self.embeds.shape[1])
        valid = real if self.valid is None else gather(self.valid, columns, 1)
        if self.valid is not None and valid is not None and real is not None:
            valid = valid & real
        positions = gather(self.positions, columns, self.positions.dim() - 1)
        injection = None if self.injection is None else self.injection.at(columns)
        embeds = gather(self.embeds, columns, 1)
        both_ways = None if self.both_ways is None else self.both_ways.at(columns, real)
        per_layer = None if self.per_layer is None else gather(self.per_layer, columns, 1)
        return Fed(
            embeds, valid, positions, back, self.layout, self.runs, injection=injection, both_ways=both_ways,
            per_layer=per_layer,
        )  # fmt: skip


def numbered(fed: Fed, same: Fed, layout: Layout) -> Fed:
    """Some columns of a pass, numbered one after the other from where the pass begins."""
    positions = same.positions if same.positions.dim() == 2 else same.positions[0]
    first = torch.where(layout.valid, positions, positions.max()).amin(1, keepdim=True)
    valid = torch.ones(fed.embeds.shape[:2], device=first.device) if fed.valid is None else fed.valid
    number = (valid.long().cumsum(1) - 1).clamp(min=0)
    positions = (number.to(first.device) + first).expand(*same.positions.shape[:-2], -1, -1)
    return replace(fed, positions=positions, renumbered=True)
