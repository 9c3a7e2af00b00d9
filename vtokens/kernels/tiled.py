"""Block-sparse attention in plain PyTorch: tiles are gathered side by side, and dense attention does the rest."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vtokens.kernels._softmax import Part, attend, fusible, merge
from vtokens.kernels.tiles import Tiles

_BUDGET = {"cpu": 1 << 18}
"""Most scores held at once, in elements, by device type: on a CPU 1 MiB a thread, which its caches hold."""
_BUDGET_ELSEWHERE = 1 << 24
_TOGETHER = 1024
"""Rows that are computed side by side where they see the same keys."""
_NEVER = 2.0**30
"""A key position after every query."""
_FAR = 1e25
"""What a key loses for each position it lies after its query: more than any score, and finite in float32."""


class Chunk(NamedTuple):
    """Query tiles that are computed together.

    Attributes:
        items: int64 (C,), which, counted over samples, plans and tiles.
        longest: tiles of the longest list; the first `full` of them need no mask in any.
        alike: their lists are 0, 1, 2, ... in the same keys.
    """

    items: Tensor
    longest: int
    full: int
    alike: bool


class Plans:
    """Some of the plans of a `Tiles`: their keys and values in the order of the slots.

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
        slot, device = tiles.k_slot[:, part], query.device
        self._query, self._scaling, self._wide, self._ids = query, scaling, wide, tiles.ids
        self._block, self._dims, self._fused = tiles.block, (key.shape[3], value.shape[3]), fusible(query, key, value)
        self._budget = _BUDGET.get(device.type, _BUDGET_ELSEWHERE)
        if device.type == "cpu":
            self._budget *= torch.get_num_threads()
        head = torch.tensor(tiles.heads[part], device=device)
        batch = torch.arange(len(query), device=device)[:, None]
        source = batch * key.shape[1] + head // (query.shape[1] // key.shape[1])
        if _in_order(slot, key.shape[2]):
            self._key, self._value = (x.reshape(-1, slot.shape[3] * x.shape[3]) for x in (key, value))
            first = source * slot.shape[2]
        else:
            at = (slot.flatten(2).clamp(min=0) + source[..., None] * key.shape[2]).flatten()
            self._key, self._value = (_rows(x, at).view(-1, slot.shape[3] * x.shape[3]) for x in (key, value))
            first = torch.arange(source.numel(), device=device) * slot.shape[2]
        # float32 counts exactly as far as 2^24.
        count = torch.float64 if tiles.keys >= 1 << 23 else wide
        place = slot.to(count).masked_fill(slot < 0, _NEVER).reshape(-1, slot.shape[3])
        self._place = torch.nn.functional.pad(place, (0, 0, 0, 1), value=_NEVER)
        self._rows = tiles.q_slot[:, part].flatten(0, 2)
        seen = torch.full_like(self._rows, tiles.keys) if tiles.offset is None else self._rows + tiles.offset
        self._last = seen.to(count)
        self._start, self._count, self._full = (x[:, part].flatten() for x in (tiles.start, tiles.count, tiles.full))
        each = tiles.q_slot.shape[2]
        self._sample, self._head = (
            x.expand(len(query), -1).reshape(-1).repeat_interleave(each) for x in (batch.expand(-1, len(head)), head)
        )
        self._plan = torch.arange(len(self._count), device=device) // each
        self._first = first.flatten().repeat_interleave(each)
        self._nth = self._plan * slot.shape[2]

    def chunks(self) -> list[Chunk]:
        """All query tiles that have a list; those with the same keys, or with lists of like length, together."""
        if not self._count.numel():
            return []
        (block_m, block_n), size, chunks = self._block, self._count.max().long() + 1, []
        for alike in (False, True):
            items = ((self._count > 0) & ((self._start < 0) == alike)).nonzero()[:, 0]
            major, minor = (self._plan, self._count) if alike else (self._count, self._full)
            items = items[(major * size + minor)[items].argsort(descending=True, stable=True)]
            lengths, full, plan = (part[items].tolist() for part in (self._count, self._full, self._plan))
            first = 0
            while first < len(items):
                most = _TOGETHER // block_m if alike else self._budget // (block_m * block_n * lengths[first])
                end = min(first + max(1, most), len(items))
                while alike and plan[end - 1] != plan[first]:
                    end -= 1
                chunks.append(Chunk(items[first:end], lengths[first], min(full[first:end]), alike))
                first = end
        return chunks

    def attend(self, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (C BLOCK_M, D_v) and log-sum-exps (C BLOCK_M,), and the rows of (B, M, H) they belong to."""
        items = chunk.items
        rows, head, sample = self._rows[items], self._head[items][:, None], self._sample[items][:, None]
        states, last = self._query[sample, head, rows.clamp(min=0)].to(self._wide), self._last[items]
        if chunk.alike:
            states, last = states.flatten(0, 1)[None], last.flatten()[None]
        found: Part | None = None
        for begin, end in self._segments(chunk):
            keys, values, place = self._tiles(chunk, begin, end)
            bias = None
            if end > chunk.full:
                bias = (place[:, None] - last[..., None]).clamp_(min=0).mul_(-_FAR).to(self._wide)
            part = attend(states, keys, values, self._scaling, bias, self._fused)
            found = part if found is None else merge(found, part)
        assert found is not None
        # A row that sees nothing has only scores of -1e25 and below.
        nothing = found[1] < -_FAR / 2
        output, lse = found[0].masked_fill(nothing[..., None], 0), found[1].masked_fill(nothing, -torch.inf)
        batch, heads, length, _ = self._query.shape
        where = ((sample * length + rows) * heads + head).masked_fill_(rows < 0, batch * length * heads)
        return output.flatten(0, 1), lse.flatten(), where.flatten()

    def _segments(self, chunk: Chunk) -> list[tuple[int, int]]:
        """Which tiles of the lists are taken at a time: first those that need no mask, then the others."""
        step = max(1, self._budget // (self._block[0] * self._block[1] * len(chunk.items)))
        # Keys that are read in place cost no memory, nor do scores that stay in the cache.
        free = chunk.alike and self._fused and self._key.dtype == self._wide
        whole = [(0, chunk.full)] if free and chunk.full else _steps(0, chunk.full, step)
        return whole + _steps(chunk.full, chunk.longest, step)

    def _tiles(self, chunk: Chunk, begin: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """Entries `begin` to `end` of each list: keys, values, places (C, n BLOCK_N, ...); past its end is nowhere."""
        items = chunk.items[:1] if chunk.alike else chunk.items
        if chunk.alike:
            first, nth = int(self._first[items]), int(self._nth[items])
            found = self._key[first + begin : first + end], self._value[first + begin : first + end]
            place = self._place[nth + begin : nth + end]
        else:
            which = torch.arange(begin, end, device=items.device)
            over = which >= self._count[items][:, None]
            at = (self._start[items][:, None] + which).clamp_(max=len(self._ids) - 1)
            tile = self._ids[at].long().masked_fill_(over, 0)
            gathered = (self._first[items][:, None] + tile).flatten()
            found = self._key.index_select(0, gathered), self._value.index_select(0, gathered)
            place = self._place[(self._nth[items][:, None] + tile).masked_fill_(over, len(self._place) - 1)]
        keys, values = (
            part.to(self._wide).view(len(items), -1, dim) for part, dim in zip(found, self._dims, strict=True)
        )
        return keys, values, place.reshape(len(items), -1)


def _steps(begin: int, end: int, step: int) -> list[tuple[int, int]]:
    return [(first, min(first + step, end)) for first in range(begin, end, step)]


def _in_order(slot: Tensor, keys: int) -> bool:
    """Whether slots hold the keys in the order of the sequence, none left over, so that these can be read in place."""
    if slot.shape[2] * slot.shape[3] != keys:
        return False
    return bool((slot.flatten(2) == torch.arange(keys, device=slot.device)).all())


def _rows(states: Tensor, at: Tensor) -> Tensor:
    """Rows of (B, H, N, D), counted over (B, H, N)."""
    if not states.shape[2]:
        return states.new_zeros(len(at), states.shape[3])
    return states.reshape(-1, states.shape[3]).index_select(0, at)
