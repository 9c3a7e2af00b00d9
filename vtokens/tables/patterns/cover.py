"""From the lines of a pattern to slots and lists of tiles."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vtokens.kernels.attention_sums import BAND
from vtokens.kernels.tiles import Tiles
from vtokens.tables.patterns.lines import Ground, Lines

_SORTED = 1 << 25
"""Most list entries sorted at once."""


def cover(lines: Lines, ground: Ground, heads: Sequence[int]) -> list[Tiles]:
    """The tiles that hold every pair the lines keep; nothing waits for the device.

    Columns get key tiles of their own and lone rows query tiles of their own; everything else stays in order, so that
    windows and diagonals are runs of tiles. A query tile whose rows lie so far apart that its list overflows sees all
    keys.

    Args:
        lines: of P plans.
        ground: what they stand on.
        heads: the query head of each plan.

    Returns:
        Tiles of consecutive plans, which together are the P plans.
    """
    near, band, width = _lengths(lines, ground)
    tiles = -(-ground.row.shape[1] // ground.block[0]) + 2
    share = max(1, _SORTED // (len(ground.row) * tiles * width))
    return [
        _cover(lines.part(slice(first, first + share)), ground, heads[first : first + share], near, band)
        for first in range(0, len(heads), share)
    ]


def _lengths(lines: Lines, ground: Ground) -> tuple[int, int, int]:
    """Most tiles that neighbours and one diagonal of a query tile can touch, and how long lists get."""
    block_m, block_n = ground.block
    # Rows among which lone ones were taken out stand a little further apart than a tile is long.
    apart = block_m + block_m // 4
    near = apart + lines.window if lines.ranks is None else block_m + 2 * lines.ranks.most
    near, band = (-(-size // block_n) + 1 for size in (near, apart + BAND))
    return near, band, -(-lines.most // block_n) + ground.groups * (near + lines.bands.shape[3] * band)


def _cover(lines: Lines, ground: Ground, heads: Sequence[int], near: int, band: int) -> Tiles:
    keys, rows, (block_m, block_n) = lines.columns.shape[2], lines.rows.shape[2], ground.block
    device, ranks = lines.columns.device, lines.ranks
    group = ground.group[:, None]
    region = torch.where(lines.columns & (group >= 0), 0, group + 1).masked_fill(group < 0, -1)
    row = lines.rows.long().masked_fill(~ground.row[:, None], -1)
    k_slot, k_base = arrange(region, 1 + ground.groups, block_n, None if ranks is None else ranks.key)
    q_slot, q_base = arrange(row, 2, block_m, None if ranks is None else ranks.row)
    none = k_slot.shape[2]
    everything = torch.arange(q_slot.shape[2], device=device) * block_m >= q_base[..., 1:2]
    column = torch.arange(-(-lines.most // block_n), device=device)
    column = column.masked_fill(column * block_n >= k_base[..., 1:2], none)
    lists = [column[:, :, None].expand(-1, -1, q_slot.shape[2], -1)]
    if ranks is None:
        place = torch.arange(keys, device=device).expand(region.shape)
        low, high = _ends(q_slot, place[..., ground.offset :])
    else:
        place = ranks.key
        low, high = _ends(q_slot, ranks.row)
    for number in range(ground.groups):
        size = keys if ranks is None else ranks.size
        count = torch.zeros(*region.shape[:2], size + 1, dtype=torch.long, device=device)
        before = count.scatter_add_(-1, place + 1, (region == number + 1).long()).cumsum_(-1)
        base = k_base[..., number + 1]
        away = (lines.bands[:, :, number] * BAND)[:, :, None]
        for first, after, most in (
            ((low - lines.window + 1)[..., None], (high + 1)[..., None], near),
            (low[..., None] - away - BAND + 1, torch.where(away < 0, 0, high[..., None] - away + 1), band),
        ):
            found, wide = _run(first, after, before, base, block_n, most, none)
            lists.append(found)
            everything = everything | wide
    return Tiles.padded(q_slot, k_slot, torch.cat(lists, -1), everything, heads, rows, keys, ground.offset)


def _ends(slot: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest place (B, P, T) in each tile; the least is above the greatest where it is empty."""
    there = place.gather(-1, slot.clamp(min=0).long().flatten(2)).view(slot.shape)
    low = there.masked_fill(slot < 0, torch.iinfo(there.dtype).max // 2).amin(-1)
    return low, there.masked_fill(slot < 0, -1).amax(-1)


def _run(
    first: Tensor, after: Tensor, before: Tensor, base: Tensor, block: int, most: int, none: int
) -> tuple[Tensor, Tensor]:
    """Tiles that hold a region's keys from place `first` to before `after`, both (B, P, T, n).

    Args:
        before: (B, P, size + 1), how many keys of the region lie before each place.
        base: (B, P), the slot where the region begins.
        block: slots of a tile.
        most: room for each run.
        none: what stands for no tile.

    Returns:
        (B, P, T, n most) tiles, and bool (B, P, T), where a run has no room.
    """
    size = before.shape[-1] - 1
    first, after = (before.gather(-1, x.clamp(0, size).flatten(2)).view(x.shape) for x in (first, after))
    begin, end = ((base[..., None, None] + x) // block for x in (first, after - 1))
    tile = begin[..., None] + torch.arange(most, device=begin.device)
    empty = after <= first
    tile = tile.masked_fill((tile > end[..., None]) | empty[..., None], none)
    return tile.flatten(3), ((end - begin >= most) & ~empty).any(-1)


def arrange(region: Tensor, regions: int, block: int, rank: Tensor | None) -> tuple[Tensor, Tensor]:
    """Slots in which one region follows another, each from the beginning of a tile.

    Args:
        region: int64 (B, P, N), the region of each position, -1 if it gets no slot.
        regions: how many there are.
        block: slots of a tile.
        rank: int64 (B, P, N), the order within a region; None is that of the sequence, which also breaks ties.

    Returns:
        slots: int32 (B, P, T, block), -1 where empty; T is known from the shapes.
        base: int64 (B, P, regions + 1), the slot where each region begins, and where the last one's tiles end.
    """
    batch, plans, length = region.shape
    index = torch.arange(length, device=region.device).expand_as(region)
    there = region[..., None, :] == torch.arange(regions, device=region.device)[:, None]
    base = torch.nn.functional.pad((there.sum(-1) + block - 1).div_(block, rounding_mode="floor") * block, (1, 0))
    base = base.cumsum(-1)
    if rank is None:
        within = (there.cumsum(-1) - 1).gather(2, region.clamp(min=0)[..., None, :])[:, :, 0]
    else:
        # Regions one after another, each by rank: both sorts are stable.
        order = rank.argsort(dim=-1, stable=True)
        order = order.gather(-1, region.gather(-1, order).argsort(dim=-1, stable=True))
        behind = torch.empty_like(order).scatter_(-1, order, index)
        fewer = torch.nn.functional.pad(there.sum(-1), (1, 0)).cumsum(-1) + (region < 0).sum(-1, keepdim=True)
        within = behind - fewer.gather(-1, region.clamp(min=0))
    tiles = -(-length // block) + regions
    place = torch.where(region < 0, tiles * block, base.gather(-1, region.clamp(min=0)) + within)
    slot = torch.full((batch, plans, tiles * block + 1), -1, dtype=torch.int32, device=region.device)
    slot.scatter_(-1, place, index.to(torch.int32))
    return slot[..., :-1].reshape(batch, plans, tiles, block), base
