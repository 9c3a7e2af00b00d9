"""Which tiles of an attention matrix are computed: queries and keys in any order, and for each query tile a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.on_device import on_device

_NEVER = 1 << 30
"""A key position after every query: keys are counted in 32 bits."""


@dataclass(frozen=True)
class Tiles:
    """Slots and lists of tiles for a batch of B samples and P plans; a plan computes some rows of one query head.

    Queries and keys may stand in any order: slot s of tile t holds row `q_slot[b, p, t, s]`. Every row is in at most
    one slot, every key too, so each pair is computed at most once whatever the lists say. `csr` and `mask` make checked
    ones; the constructor takes everything as it is.

    Attributes:
        q_slot: int32 (B, P, T_q, BLOCK_M), query rows, -1 where a slot is empty.
        k_slot: int32 (B, P, T_k, BLOCK_N), keys, -1 where a slot is empty: nobody attends there.
        ids: int32 (L,), key tiles of all lists.
        start: int64 (B, P, T_q), where the list of a query tile begins in `ids`; below 0 its list is 0, 1, 2, ...
        count: int32 (B, P, T_q), how many tiles it has.
        full: int32 (B, P, T_q), how many of these, the first ones, need no mask.
        heads: the query head of each plan; plans of one head must not share rows.
        rows, keys: how many query rows and keys there are.
        offset: the key position of row 0: row r sees keys up to r + `offset`. None: every row sees all keys.
    """

    q_slot: Tensor
    k_slot: Tensor
    ids: Tensor
    start: Tensor
    count: Tensor
    full: Tensor
    heads: tuple[int, ...]
    rows: int
    keys: int
    offset: int | None

    @staticmethod
    def padded(
        q_slot: Tensor, k_slot: Tensor, lists: Tensor, everything: Tensor | None, heads: Sequence[int], rows: int,
        keys: int, offset: int | None,
    ) -> Tiles:  # fmt: skip
        """From padded lists in any order, with repetitions; nothing waits for the device and nothing is checked.

        Args:
            q_slot, k_slot, heads, rows, keys, offset: as the attributes.
            lists: int (B, P, T_q, W), key tiles; T_k and above are no tile.
            everything: bool (B, P, T_q), query tiles that list every key tile instead; None for none.
        """
        (*shape, wide), tiles = lists.shape, k_slot.shape[2]
        (q_low, q_high), (k_low, k_high) = _span(q_slot, k_slot, offset, keys)
        low, high = (torch.nn.functional.pad(part, (0, 1), value=_NEVER) for part in (k_low, k_high))
        flat = lists.flatten(2).clamp(max=tiles).long()
        seen = low.gather(2, flat).view(lists.shape) <= q_high[..., None]
        whole = high.gather(2, flat).view(lists.shape) <= q_low[..., None]
        # One sort puts tiles without a mask first, then those with one, then what is no tile, repetitions side by side.
        ordered = torch.where(seen, torch.where(whole, lists, lists + tiles), 2 * tiles).sort(-1).values
        new = ordered < 2 * tiles
        new[..., 1:] &= ordered[..., 1:] != ordered[..., :-1]
        place = torch.where(new, new.cumsum(-1) - 1, wide)
        ids = torch.zeros(*shape, wide + 1, dtype=torch.int32, device=lists.device)
        ids.scatter_(-1, place, (ordered % tiles).to(torch.int32))
        start = torch.arange(0, q_slot[..., 0].numel() * (wide + 1), wide + 1, device=lists.device).view(shape)
        count, full = new.sum(-1), (new & (ordered < tiles)).sum(-1)
        if everything is not None:
            # Past the last tile that holds a visible key there is nothing to visit.
            nearest = k_low.flip(-1).cummin(-1).values.flip(-1)
            reach = torch.searchsorted(nearest, q_high, right=True)
            start, count = start.masked_fill(everything, -1), torch.where(everything, reach, count)
            # The list is not in another order: what needs no mask is what comes before the first tile that does.
            before = torch.searchsorted(k_high.cummax(-1).values, q_low, right=True)
            full = torch.where(everything, torch.minimum(before, reach), full)
        count, full = count.to(torch.int32), full.to(torch.int32)
        return Tiles(q_slot, k_slot, ids.flatten(), start, count, full, tuple(heads), rows, keys, offset)

    @staticmethod
    def csr(
        q_slot: Tensor, k_slot: Tensor, indptr: Tensor, tile: Tensor, *, rows: int, keys: int,
        offset: int | None = None, heads: Sequence[int] | None = None,
    ) -> Tiles:  # fmt: skip
        """From compressed rows: the list of query tile i, counted over (B, P, T_q), is tile[indptr[i] : indptr[i + 1]].

        Args:
            q_slot: int (B, P, T_q, BLOCK_M).
            k_slot: int (B, P, T_k, BLOCK_N).
            indptr: int (B P T_q + 1,).
            tile: int (L,), ascending in each list.
            rows, keys, offset, heads: as the attributes; heads default to 0 .. P - 1.

        Raises:
            TypeError: not integers.
            ValueError: shapes that do not fit, an index out of range, a row or key in two slots, a list unsorted or
                with a tile twice.
        """
        heads = tuple(range(q_slot.shape[1])) if heads is None else tuple(heads)
        for name, part in (("q_slot", q_slot), ("k_slot", k_slot), ("indptr", indptr), ("tile", tile)):
            if part.is_floating_point() or part.dtype == torch.bool:
                raise TypeError(f"{name} is {part.dtype}: integers are allowed")
        if q_slot.dim() != 4 or k_slot.dim() != 4 or q_slot.shape[:2] != k_slot.shape[:2]:
            raise ValueError(
                f"q_slot {tuple(q_slot.shape)} and k_slot {tuple(k_slot.shape)} do not fit: they must be "
                "(B, P, T_q, BLOCK_M) and (B, P, T_k, BLOCK_N)"
            )
        if len(heads) != q_slot.shape[1]:
            raise ValueError(f"{len(heads)} heads are named for {q_slot.shape[1]} plans: one for each is needed")
        _check_slots("q_slot", q_slot, heads, rows)
        _check_slots("k_slot", k_slot, range(len(heads)), keys)
        lists, tiles = q_slot.shape[0] * q_slot.shape[1] * q_slot.shape[2], k_slot.shape[2]
        length = indptr.diff()
        if indptr.shape != (lists + 1,) or indptr[0] != 0 or indptr[-1] != len(tile) or (length < 0).any():
            raise ValueError(f"indptr must rise from 0 to {len(tile)}, the tiles listed, in {lists + 1} entries")
        if len(tile) and not 0 <= int(tile.min()) <= int(tile.max()) < tiles:
            raise ValueError(f"tile holds {int(tile.min())} to {int(tile.max())}: 0 to {tiles - 1} is allowed")
        owner = torch.arange(lists, device=tile.device).repeat_interleave(length)
        if ((tile[1:] <= tile[:-1]) & (owner[1:] == owner[:-1])).any():
            raise ValueError("a list of tiles is unsorted or names one twice: each must ascend")
        padded = torch.full((lists, max(1, int(length.max()))), tiles, device=tile.device)
        padded[owner, torch.arange(len(tile), device=tile.device) - indptr[owner]] = tile.long()
        q_slot, k_slot = q_slot.to(torch.int32).contiguous(), k_slot.to(torch.int32).contiguous()
        return Tiles.padded(q_slot, k_slot, padded.view(*q_slot.shape[:3], -1), None, heads, rows, keys, offset)

    @staticmethod
    def mask(
        q_slot: Tensor, k_slot: Tensor, visit: Tensor, *, rows: int, keys: int, offset: int | None = None,
        heads: Sequence[int] | None = None,
    ) -> Tiles:  # fmt: skip
        """From a bool (B, P, T_q, T_k) of the tiles to visit; everything else as in `csr`."""
        if visit.dtype != torch.bool or visit.shape != (*q_slot.shape[:3], k_slot.shape[2]):
            raise ValueError(
                f"visit is {visit.dtype} {tuple(visit.shape)}: bool {(*q_slot.shape[:3], k_slot.shape[2])} is needed"
            )
        indptr = torch.nn.functional.pad(visit.sum(-1).flatten().cumsum(0), (1, 0))
        tile = visit.flatten(0, 2).nonzero()[:, 1]
        return Tiles.csr(q_slot, k_slot, indptr, tile, rows=rows, keys=keys, offset=offset, heads=heads)

    @property
    def block(self) -> tuple[int, int]:
        """(BLOCK_M, BLOCK_N)."""
        return self.q_slot.shape[3], self.k_slot.shape[3]

    def visited(self) -> Tensor:
        """int64 (B,): tiles visited in each sample, over all plans."""
        return self.count.long().sum((1, 2))

    def flops(self, dim: int, wide: int) -> int:
        """Floating-point operations of the visited tiles for keys of `dim` and values of `wide`; reads the device."""
        block_m, block_n = self.block
        return int(self.visited().sum()) * 2 * block_m * block_n * (dim + wide)


def in_order(length: int, block: int, batch: int = 1, plans: int = 1, valid: Tensor | None = None) -> Tensor:
    """int32 (B, P, T, block): slots in the order of the sequence.

    Args:
        length: rows or keys.
        block: slots of a tile.
        batch, plans: B and P.
        valid: bool (B, length), False on padding, whose slots stay empty; None if there is none.
    """
    tiles = max(1, -(-length // block))
    slot = torch.full((batch, tiles * block), -1, dtype=torch.int32, device=None if valid is None else valid.device)
    order = torch.arange(length, dtype=torch.int32, device=slot.device)
    slot[:, :length] = order if valid is None else order.masked_fill(~valid, -1)
    return slot.view(batch, 1, tiles, block).expand(-1, plans, -1, -1).contiguous()


def _span(q_slot: Tensor, k_slot: Tensor, offset: int | None, keys: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """The last key that all rows of a query tile see, and that any sees; the first and last position in a key tile."""
    real, there = q_slot >= 0, k_slot >= 0
    position = torch.full_like(q_slot, keys) if offset is None else q_slot + offset
    q_low, q_high = position.masked_fill(~real, _NEVER - 1).amin(-1), position.masked_fill(~real, -1).amax(-1)
    k_high = k_slot.masked_fill(~there, _NEVER).amax(-1)
    return (q_low, q_high), (k_slot.masked_fill(~there, _NEVER).amin(-1), k_high)


def _check_slots(name: str, slot: Tensor, owners: Sequence[int], length: int) -> None:
    """Raise unless every index is in [-1, length), and none stands twice in the plans of one owner."""
    if slot.numel() and not -1 <= int(slot.min()) <= int(slot.max()) < length:
        least, most = int(slot.min()), int(slot.max())
        raise ValueError(f"{name} holds {least} to {most}: 0 to {length - 1}, or -1 for an empty slot, is allowed")
    batch = torch.arange(slot.shape[0], device=slot.device)[:, None, None]
    owner = on_device(list(owners), slot.device)[None, :, None]
    which = (batch * (max(owners, default=0) + 1) + owner) * length + slot.flatten(2)
    ordered = which[slot.flatten(2) >= 0].sort().values
    if (ordered[1:] == ordered[:-1]).any():
        twice = int(ordered[1:][ordered[1:] == ordered[:-1]][0]) % length
        raise ValueError(f"{name} holds {twice} in two slots of one head: each may stand in one only")
