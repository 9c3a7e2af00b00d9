"""The tiles of one attention call, from the pattern of each head: modalities, estimation, and what is always kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from vtokens.kernels.attention_sums import BAND, attention_sums
from vtokens.kernels.tiles import Tiles, in_order
from vtokens.tables.patterns.a_shape import first_keys
from vtokens.tables.patterns.cover import cover
from vtokens.tables.patterns.lines import Ground, Pattern, Sums

INTER = ("none", "k", "q", "2d")
"""Where a head's pattern changes with the modality: nowhere, with the key, with the query, with both."""
ESTIMATED = 64
"""How many last rows patterns are estimated from."""
LAST = (64, 1024)
"""At least and at most how many last rows see everything: in between, those after the last visual token."""


@dataclass(frozen=True)
class Run:
    """What one head runs: `intra` None is all of attention."""

    inter: str = "none"
    intra: Pattern | None = None


@dataclass(frozen=True)
class Scene:
    """One attention call, as patterns see it.

    Attributes:
        query: (B, H, M, D), rotary embedding applied, the last M rows of N positions.
        key: (B, H_kv, N, D).
        scaling: the factor on the products.
        visual: bool (B, N), visual tokens.
        valid: bool (B, N), False on padding; None if there is none.
        strides: distances at which the pictures' rows and frames repeat.
        block: (BLOCK_M, BLOCK_N).
    """

    query: Tensor
    key: Tensor
    scaling: float
    visual: Tensor
    valid: Tensor | None
    strides: tuple[int, ...]
    block: tuple[int, int]

    @property
    def offset(self) -> int:
        """The key position of row 0."""
        return self.key.shape[2] - self.query.shape[2]


Estimates = dict[tuple[str, int], Sums]
"""Sums of all heads, by the rows they are over and the groups of keys they are split into."""


@torch.no_grad()
def index(runs: Sequence[Run], scene: Scene, estimates: Estimates | None = None) -> Tiles:
    """The tiles that the heads' patterns keep, in one `Tiles`.

    Always kept, whatever the pattern: a row's own tile, the first key tile, and all keys for the last rows. Text and
    padding inside a picture go by the key's own modality; a lone position between visual tokens (a newline) is visual.

    Args:
        runs: of each head.
        scene: the attention call.
        estimates: found for other patterns of the same call, and added to; None starts anew.
    """
    valid = torch.ones_like(scene.visual) if scene.valid is None else scene.valid
    visual = _closed(scene.visual) & valid
    last = _last_rows(scene, visual, valid)
    sums: Estimates = {} if estimates is None else estimates
    parts: list[Tiles] = []
    for run in sorted(set(runs), key=repr):
        heads = [number for number, other in enumerate(runs) if other == run]
        if run.intra is None:
            parts.append(_everything(scene, valid, heads))
            continue
        groups = 2 if run.inter in ("k", "2d") else 1
        for which in ("visual", "text") if run.inter in ("q", "2d") else ("all",):
            pattern = run.intra.for_text() if which == "text" else run.intra
            # Rows of padding are computed like text: nothing reads them, except where a prompt is padded on the right.
            there = {"all": torch.ones_like(visual), "visual": visual, "text": ~visual}[which]
            ground = _ground(scene, run.inter, groups, there, visual, valid)
            found = None
            if pattern.estimated:
                if (which, groups) not in sums:
                    sums[which, groups] = _estimate(scene, ground, valid)
                found = sums[which, groups].part(heads)
            lines = pattern.lines(ground, len(heads), found, scene.strides)
            first = first_keys(replace(ground, group=valid.long() - 1, groups=1), scene.block[1])
            columns, rows = lines.columns | first[:, None], lines.rows | last[:, None]
            most = min(scene.key.shape[2], lines.most + scene.block[1])
            parts += cover(replace(lines, columns=columns, rows=rows, most=most), ground, heads)
    return join(parts)


def _closed(visual: Tensor) -> Tensor:
    """With lone gaps between visual tokens filled."""
    gap = torch.zeros_like(visual)
    gap[:, 1:-1] = visual[:, :-2] & visual[:, 2:]
    return visual | gap


def _last_rows(scene: Scene, visual: Tensor, valid: Tensor) -> Tensor:
    """bool (B, M)."""
    place = torch.arange(1, visual.shape[1] + 1, device=visual.device)
    end, shown = ((part * place).amax(1) for part in (valid, visual))
    first = torch.minimum(torch.maximum(shown, end - LAST[1]), end - LAST[0])
    return place[scene.offset :] > first[:, None]


def _ground(scene: Scene, inter: str, groups: int, there: Tensor, visual: Tensor, valid: Tensor) -> Ground:
    group = torch.where(valid, visual.long() * (groups - 1), -1)
    grid = valid if inter == "none" else visual
    place = (grid.cumsum(1) - 1).masked_fill(~grid, -1)
    return Ground(there[:, scene.offset :], group, groups, place, scene.offset, scene.block)


def _estimate(scene: Scene, ground: Ground, valid: Tensor) -> Sums:
    """Sums over the last rows that the plans compute."""
    rows = ground.row.shape[1]
    real = ground.row & valid[:, scene.offset :]
    place = torch.where(real, torch.arange(rows, device=real.device), -1)
    place = place.topk(min(ESTIMATED, rows), 1).values
    where = place.clamp(min=0)[:, None, :, None].expand(-1, scene.query.shape[1], -1, scene.query.shape[3])
    position = torch.where(place < 0, -1, place + scene.offset)
    query = scene.query.gather(2, where)
    return Sums(*attention_sums(query, scene.key, scene.scaling, position, ground.group, ground.groups))


def _everything(scene: Scene, valid: Tensor, heads: Sequence[int]) -> Tiles:
    (batch, _, rows, _), keys, (block_m, block_n) = scene.query.shape, scene.key.shape[2], scene.block
    q_slot = in_order(rows, block_m, batch, len(heads), torch.ones_like(valid[:, scene.offset :]))
    k_slot = in_order(keys, block_n, batch, len(heads), valid)
    lists = q_slot.new_zeros(*q_slot.shape[:3], 1)
    every = torch.ones_like(lists[..., 0], dtype=torch.bool)
    return Tiles.padded(q_slot, k_slot, lists, every, heads, rows, keys, scene.offset)


def join(parts: Sequence[Tiles]) -> Tiles:
    """The plans of several `Tiles` of one call, one after another."""
    if len(parts) == 1:
        return parts[0]

    def pad(values: Sequence[Tensor], fill: int) -> Tensor:
        longest = max(value.shape[2] for value in values)
        return torch.cat(
            [
                torch.nn.functional.pad(value, (0, 0) * (value.dim() - 3) + (0, longest - value.shape[2]), value=fill)
                for value in values
            ],
            1,
        )

    first, starts = 0, []
    for part in parts:
        starts.append(torch.where(part.start < 0, -1, part.start + first))
        first += len(part.ids)
    return Tiles(
        pad([part.q_slot for part in parts], -1),
        pad([part.k_slot for part in parts], -1),
        torch.cat([part.ids for part in parts]),
        pad(starts, 0),
        pad([part.count for part in parts], 0),
        pad([part.full for part in parts], 0),
        tuple(head for part in parts for head in part.heads),
        parts[0].rows,
        parts[0].keys,
        parts[0].offset,
    )


@cache
def share(run: Run, rows: int, keys: int, strides: tuple[int, ...], block: tuple[int, int]) -> float:
    """The predicted share of the causal tiles that a head visits, from its pattern and the lengths alone."""
    if run.intra is None:
        return 1.0
    block_m, block_n = block
    groups = 2 if run.inter in ("k", "2d") else 1
    size = run.intra.size(keys, strides)
    # Runs of neighbours and of each diagonal: a second group of keys breaks them, but adds none.
    runs = 1 + size.diagonals
    wide = 1 + groups * size.columns / block_n + groups * runs
    wide += (block_m * runs + size.window + BAND * size.diagonals) / block_n
    tiles = -(-rows // block_m)
    lone = min(1.0, size.rows + LAST[0] / rows)
    visible = [max(1.0, (keys - rows + min(rows, (number + 1) * block_m)) / block_n) for number in range(tiles)]
    return sum(lone * most + (1 - lone) * min(wide, most) for most in visible) / sum(visible)
