"""Block-sparse attention in plain PyTorch: tiles are gathered side by side, and dense attention does the rest."""

from __future__ import annotations

from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from vtokens.core.on_device import on_device
from vtokens.kernels._softmax import Part, attend, fusible, merge
from vtokens.kernels.tiles import Tiles

_BUDGET = {"cpu": 1 << 20}
"""Most scores held at once, in elements, by device type: on a CPU 4 MiB a thread."""
_BUDGET_ELSEWHERE = 1 << 24
_TOGETHER = 1024
"""Rows that are computed side by side where they see the same keys."""
_ENOUGH = 4
"""Lists of one length that are worth a computation of their own."""
_NEVER = 2.0**30
"""A key position after every query."""
_FAR = 1e25
"""What a key loses for each position it lies after its query: more than any score, and finite in float32."""


class Chunk(NamedTuple):
    """Query tiles that are computed together.

    Attributes:
        first, end: which, in the order in which `Plans` has them.
        longest: tiles of the longest list; the first `full` of them need no mask in any.
        even: all lists are as long.
        alike: they are 0, 1, 2, ... in the same keys.
    """

    first: int
    end: int
    longest: int
    full: int
    even: bool
    alike: bool


class Plans:
    """Some of the plans of a `Tiles`: keys and values in the order of the slots, query tiles in that of their lists.

    Args:
        query, key, value: of all heads.
        tiles: of all plans.
        part: the plans.
        scaling: the factor on the products.
        wide: the dtype to compute in.
    """

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, tiles: Tiles, part: slice, scaling: float, wide: torch.dtype
    ) -> None:
        slot, device, (batch, heads, rows, _) = tiles.k_slot[:, part], query.device, query.shape
        self._scaling, self._wide, self._ids = scaling, wide, tiles.ids.long()
        self._block, self._dims, self._fused = tiles.block, (key.shape[3], value.shape[3]), fusible(query, key, value)
        self._budget = _BUDGET.get(device.type, _BUDGET_ELSEWHERE)
        if device.type == "cpu":
            self._budget *= torch.get_num_threads()
        held = max(1, self._budget // (self._block[0] * self._block[1])) if self._fused else 0
        # Fresh memory would cost more than copying tiles into it.
        self._room = [x.new_empty(held, slot.shape[3] * x.shape[3]) for x in (key, value)]
        head = on_device(tiles.heads[part], device)
        sample = torch.arange(batch, device=device)[:, None]
        source = sample * key.shape[1] + head // (heads // key.shape[1])
        if _in_order(slot, key.shape[2]):
            self._states = [x.reshape(-1, slot.shape[3] * x.shape[3]) for x in (key, value)]
            first = source * slot.shape[2]
        else:
            at = (slot.flatten(2).clamp(min=0) + source[..., None] * key.shape[2]).flatten()
            self._states = [_rows(x, at).view(-1, slot.shape[3] * x.shape[3]) for x in (key, value)]
            first = torch.arange(source.numel(), device=device) * slot.shape[2]
        # float32 counts exactly as far as 2^24.
        exact = torch.float64 if tiles.keys >= 1 << 23 else wide
        place = slot.to(exact).masked_fill(slot < 0, _NEVER).reshape(-1, slot.shape[3])
        self._place = torch.nn.functional.pad(place, (0, 0, 0, 1), value=_NEVER)
        # From here on everything is in the order in which it is computed.
        start, count, full = (x[:, part].flatten().long() for x in (tiles.start, tiles.count, tiles.full))
        each, alike = tiles.q_slot.shape[2], start < 0
        plan = torch.arange(len(count), device=device) // each
        kind = torch.where(alike, plan, count) * (slot.shape[2] + 1) + torch.where(alike, count, full)
        order = (kind + alike * (len(plan) + slot.shape[2] + 1) * (slot.shape[2] + 1)).argsort(stable=True)
        order = order[count[order] > 0]
        row = tiles.q_slot[:, part].flatten(0, 2)[order].long()
        self._flat, apart = _flat(query)
        base = (sample * apart[0] + head * apart[1]).flatten()[plan[order], None]
        self._query = base + row.clamp(min=0) * apart[2]
        base = (sample * rows * heads + head).flatten()[plan[order], None]
        self._where = (base + row * heads).masked_fill_(row < 0, batch * rows * heads)
        seen = torch.full_like(row, tiles.keys) if tiles.offset is None else row + tiles.offset
        self._last = seen.to(exact)
        self._start, self._count = start[order, None], count[order, None]
        self._first, self._nth = first.flatten()[plan[order], None], plan[order, None] * slot.shape[2]
        self._kinds = torch.stack([alike, kind, count, full, plan], 1)[order]

    def chunks(self) -> list[Chunk]:
        """All query tiles that have a list; those with the same keys, or with lists of like length, together."""
        kinds, (block_m, block_n), chunks, first = self._kinds.tolist(), self._block, [], 0
        while first < len(kinds):
            alike, _, count, _, _ = kinds[first]
            most = _TOGETHER // block_m if alike else self._budget // (block_m * block_n * count)
            some = kinds[first : first + max(1, most)]
            number = _equal(some, 4 if alike else 0)
            # Lists of one length need no padding.
            if not alike and _equal(some, 1) >= _ENOUGH:
                number = _equal(some, 1)
            longest, full = some[number - 1][2], min(kind[3] for kind in some[:number])
            chunks.append(Chunk(first, first + number, longest, full, longest == count, bool(alike)))
            first += number
        return chunks

    def attend(self, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (C BLOCK_M, D_v) and log-sum-exps (C BLOCK_M,), and the rows of (B, M, H) they belong to."""
        part = slice(chunk.first, chunk.end)
        states = self._flat.index_select(0, self._query[part].flatten()).to(self._wide)
        rows = -1 if chunk.alike else self._block[0]
        states, last = states.view(chunk.end - chunk.first if rows > 0 else 1, rows, self._dims[0]), self._last[part]
        if chunk.alike:
            last = last.view(1, -1)
        found: Part | None = None
        for begin, end in self._segments(chunk):
            entry = None if chunk.alike else self._entries(chunk, begin, end)
            keys, values = self._keys(chunk, begin, end, entry)
            mask, triangle = None, False
            if end > chunk.full:
                place = self._places(chunk, begin, end, entry)
                triangle = self._fused and _triangle(place, last)
                mask = None if triangle else (place[:, None] - last[..., None]).clamp_(min=0).mul_(-_FAR)
            more = attend(states, keys, values, self._scaling, mask, triangle, self._fused)
            found = more if found is None else merge(found, more)
        assert found is not None
        # A row that sees nothing has only scores of -1e25 and below.
        output, lse = found
        nothing = lse < -_FAR / 2
        if nothing.any():
            output, lse = output.masked_fill(nothing[..., None], 0), lse.masked_fill(nothing, -torch.inf)
        return output.flatten(0, 1), lse.flatten(), self._where[part].flatten()

    def _segments(self, chunk: Chunk) -> list[tuple[int, int]]:
        """Which tiles of the lists are taken at a time: first those that need no mask, then the others."""
        step = max(1, self._budget // (self._block[0] * self._block[1] * (chunk.end - chunk.first)))
        # Keys that are read in place cost no memory, nor do scores that stay in the cache.
        free = chunk.alike and self._fused and self._states[0].dtype == self._wide
        whole = [(0, chunk.full)] if free and chunk.full else _steps(0, chunk.full, step)
        return whole + _steps(chunk.full, chunk.longest, step)

    def _entries(self, chunk: Chunk, begin: int, end: int) -> Tensor:
        """int64 (C, n): key tiles of the lists from `begin` to `end`; below 0 past the end of a list."""
        part, which = slice(chunk.first, chunk.end), torch.arange(begin, end, device=self._ids.device)
        at = self._start[part] + which
        if chunk.even:
            return self._ids[at]
        return self._ids[at.clamp_(max=len(self._ids) - 1)].masked_fill_(which >= self._count[part], -1)

    def _keys(self, chunk: Chunk, begin: int, end: int, entry: Tensor | None) -> list[Tensor]:
        """Keys and values (C, n BLOCK_N, ...) of those entries."""
        if entry is None:
            first = int(self._first[chunk.first])
            found = [states[first + begin : first + end] for states in self._states]
        else:
            at = (self._first[chunk.first : chunk.end] + (entry if chunk.even else entry.clamp(min=0))).flatten()
            found = [
                torch.index_select(states, 0, at, out=room[: len(at)]) if self._fused else states.index_select(0, at)
                for states, room in zip(self._states, self._room, strict=True)
            ]
        count = 1 if entry is None else len(entry)
        return [x.to(self._wide).view(count, -1, dim) for x, dim in zip(found, self._dims, strict=True)]

    def _places(self, chunk: Chunk, begin: int, end: int, entry: Tensor | None) -> Tensor:
        """The positions (C, n BLOCK_N) of their keys; past the end of a list after every query."""
        if entry is None:
            first = int(self._nth[chunk.first])
            return self._place[first + begin : first + end].view(1, -1)
        at = self._nth[chunk.first : chunk.end] + entry
        if not chunk.even:
            at = at.masked_fill_(entry < 0, len(self._place) - 1)
        return self._place.index_select(0, at.flatten()).view(len(entry), -1)


def _equal(rows: list[list[int]], column: int) -> int:
    """How many rows from the first on have the same entry in a column."""
    return sum(1 for _ in takewhile(lambda row: row[column] == rows[0][column], rows))


def _triangle(place: Tensor, last: Tensor) -> bool:
    """Whether rows see keys up to `last` (C, M), ascending, and these are the keys at `place` (C, N)."""
    return torch.equal(place, last) and bool((last[:, 1:] > last[:, :-1]).all())


def _steps(begin: int, end: int, step: int) -> list[tuple[int, int]]:
    return [(first, min(first + step, end)) for first in range(begin, end, step)]


def _in_order(slot: Tensor, keys: int) -> bool:
    """Whether slots hold the keys in the order of the sequence, none left over, so that these can be read in place."""
    if slot.shape[2] * slot.shape[3] != keys:
        return False
    return bool((slot.flatten(2) == torch.arange(keys, device=slot.device)).all())


def _flat(states: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """(B, H, M, D) as rows, in the order in which they are stored, and how far apart samples, heads and rows are."""
    _, heads, length, dim = states.shape
    turned = states.transpose(1, 2)
    if turned.is_contiguous():
        return turned.reshape(-1, dim), (length * heads, 1, heads)
    return states.reshape(-1, dim), (heads * length, length, 1)


def _rows(states: Tensor, at: Tensor) -> Tensor:
    """Rows of (B, H, N, D), counted over (B, H, N)."""
    if not states.shape[2]:
        return states.new_zeros(len(at), states.shape[3])
    return states.reshape(-1, states.shape[3]).index_select(0, at)
