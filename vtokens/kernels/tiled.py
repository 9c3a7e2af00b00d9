"""Block-sparse attention in plain PyTorch: tiles are gathered side by side, and a few matrix products do the rest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vtokens.kernels.tiles import Tiles

_BUDGET = {"cpu": 1 << 18}
"""Most scores held at once, in elements, by device type: on a CPU 1 MiB a thread, which its caches hold."""
_BUDGET_ELSEWHERE = 1 << 24
_NEVER = 2.0**30
"""A key position after every query."""
_FAR = 1e25
"""What a key loses for each position it lies after its query: more than any score, and finite in float32."""
_LOG2E = 1 / math.log(2)


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
        self._query, self._wide, self._ids = query, wide, tiles.ids
        # exp2 keeps its pace where shares underflow; exp may not.
        self._scaling = scaling * _LOG2E
        self._block, self._dims = tiles.block, (key.shape[3], value.shape[3])
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
        self._first = first.flatten().repeat_interleave(each)
        self._nth = torch.arange(len(self._count), device=device) // each * slot.shape[2]

    def chunks(self) -> list[tuple[Tensor, int, int]]:
        """Query tiles, those with lists of like length together; the longest list, and how many need no mask in any."""
        order = self._count.argsort(descending=True, stable=True)
        lengths, full = self._count[order].tolist(), self._full[order].tolist()
        block_m, block_n = self._block
        chunks, first = [], 0
        while first < len(lengths) and lengths[first]:
            # Tiles without a list sort to the end and are left out.
            end = min(first + max(1, self._budget // (block_m * block_n * lengths[first])), len(lengths))
            while not lengths[end - 1]:
                end -= 1
            chunks.append((order[first:end], lengths[first], min(full[first:end])))
            first = end
        return chunks

    def attend(self, items: Tensor, longest: int, full: int) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (C BLOCK_M, D_v) and log-sum-exps (C BLOCK_M,), and the rows of (B, M, H) they belong to."""
        step = max(1, self._budget // (self._block[0] * self._block[1] * len(items)))
        rows, head, sample = self._rows[items], self._head[items][:, None], self._sample[items][:, None]
        states = self._query[sample, head, rows.clamp(min=0)].to(self._wide) * self._scaling
        last = self._last[items][..., None]
        top: Tensor | None = None
        total = sums = last
        for first in range(0, longest, step):
            tile, place = self._lists(items, first, min(first + step, longest))
            masked = max(0, full - first)
            keys, values = (
                x.index_select(0, tile).to(self._wide).view(len(items), -1, dim)
                for x, dim in zip((self._key, self._value), self._dims, strict=True)
            )
            scores = torch.bmm(states, keys.transpose(1, 2))
            if masked < place.shape[1]:
                later = self._place.index_select(0, place[:, masked:].flatten()).view(len(items), 1, -1) - last
                scores[:, :, masked * self._block[1] :].sub_(later.clamp_(min=0).mul_(_FAR))
            # A constant to the gradient: neither output nor log-sum-exp depends on it.
            new = scores.detach().amax(-1)
            new = new if top is None else torch.maximum(top, new)
            shares = scores.sub_(new[..., None]).exp2_()
            part, summed = torch.bmm(shares, values), shares.sum(-1)
            if top is not None:
                decay = (top - new).exp2()
                part, summed = part + sums * decay[..., None], summed + total * decay
            top, total, sums = new, summed, part
        assert top is not None
        # A row that sees nothing has only scores of -1e25 and below.
        nothing = top < -_FAR / 2
        output = sums.mul_(total.reciprocal().masked_fill(nothing, 0)[..., None])
        lse = ((top + total.log2()) / _LOG2E).masked_fill_(nothing, -torch.inf)
        batch, heads, length, _ = self._query.shape
        where = ((sample * length + rows) * heads + head).masked_fill_(rows < 0, batch * length * heads)
        return output.flatten(0, 1), lse.flatten(), where.flatten()

    def _lists(self, items: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Entries `begin` to `end` of each list, as rows of the keys and of their places; past its end is nowhere."""
        which = torch.arange(begin, end, device=items.device)
        start, over = self._start[items][:, None], which >= self._count[items][:, None]
        tile = which.expand(len(items), -1)
        if len(self._ids):
            tile = torch.where(start < 0, which, self._ids[(start + which).clamp(0, len(self._ids) - 1)])
        tile = tile.masked_fill(over, 0)
        place = (self._nth[items][:, None] + tile).masked_fill_(over, len(self._place) - 1)
        return (self._first[items][:, None] + tile).flatten(), place


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
