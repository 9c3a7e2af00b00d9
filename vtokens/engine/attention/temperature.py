"""Queries that a layer scales by their positions, which it counts in rows: right where rows are fewer than were fed.

fed position    0   1   2   3   4   5       view.index = [0, 3, 5], f = 2
scaled by               s1  s1  s2  s2      s(p) = 1 + a log(1 + floor((p + 1) / f)), at p = 1, 3, 5 a step each
row             0           1       2       the layer takes s(1) for what was fed as 3: times s(3) / s(1)
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vtokens.engine.attention.tap import AttentionCall
from vtokens.engine.state.lane import Lane


def tempered(lane: Lane, index: int, attention: AttentionCall, counted: int) -> AttentionCall:
    """An attention call of decoder layer `index` whose queries are scaled by the positions that were fed.

    Args:
        counted: positions that the layer took to come before its first row.
    """
    spec, length = lane.specs[index].tempered, attention.query.shape[2]
    if spec is None or (lane.view is None and counted == lane.past):
        return attention
    if max(lane.past + lane.length, counted + length) < spec[0]:  # none is scaled yet
        return attention
    device = attention.query.device

    def make() -> Tensor:
        rows = torch.arange(length, device=device)[None]
        fed = rows if lane.view is None else lane.view.index.to(device)
        return (_scale(fed + lane.past, *spec) / _scale(rows + counted, *spec))[:, None, :, None]

    factor = lane.once(("tempered", spec, counted, lane.view, device), make)
    return replace(attention, query=(attention.query * factor).to(attention.query.dtype))


def _scale(positions: Tensor, floor: float, share: float) -> Tensor:
    """float32, what the queries at these positions are scaled by (arXiv:2501.19399)."""
    return 1 + share * torch.log1p(torch.floor((positions.float() + 1) / floor))
