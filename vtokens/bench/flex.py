"""FlexAttention over the tiles of `vtokens.kernels.Tiles`: compiled, for inference, without log-sum-exps on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from vtokens.bench.case import Provider
from vtokens.kernels import Tiles

_NEVER = 1 << 30
"""A key position after every query."""


def in_place(query: Tensor, key: Tensor, value: Tensor, tiles: Tiles) -> dict[str, Provider]:
    """For tiles in the order of the sequence, of all heads, whose slots are full: states are read where they are.

    Args:
        query, key, value: (B, H, M, D), (B, H_kv, N, D), (B, H_kv, N, D_v).
        tiles: one plan a head; a mask on a tile is causality of equal lengths.

    Returns:
        The provider "flex"; selecting is making its lists of tiles.
    """
    compiled = torch.compile(flex_attention, dynamic=False)
    grouped, causal = query.shape[1] != key.shape[1], tiles.offset is not None

    def lists() -> BlockMask:
        return block_mask(tiles, (lambda b, h, q, k: q >= k) if causal else None, (tiles.rows, tiles.keys))

    return {"flex": Provider(lambda mask: compiled(query, key, value, block_mask=mask, enable_gqa=grouped), lists)}


def gathered(query: Tensor, key: Tensor, value: Tensor, select: Callable[[], Tiles]) -> dict[str, Provider]:
    """For tiles in any order: states are copied into it, masks compare positions, and outputs are put back.

    Args:
        query, key, value: as for `in_place`.
        select: makes the tiles.

    Returns:
        The provider "flex", which selects with `select`.
    """
    # Of dynamic shapes torch 2.13 makes C++ for a CPU that does not compile, so each shape is compiled by itself.
    compiled = torch.compile(flex_attention, dynamic=False)
    return {"flex": Provider(lambda tiles: over_tiles(compiled, query, key, value, tiles), select)}


def over_tiles(attend: Any, query: Tensor, key: Tensor, value: Tensor, tiles: Tiles) -> Tensor:
    """What `block_sparse_attention` gives, by `attend`: `flex_attention` or what `torch.compile` makes of it.

    Returns:
        (B, H, M, D_v); zero where a row is in no slot.
    """
    (batch, heads, rows, _), (block_m, block_n) = query.shape, tiles.block
    head = torch.tensor(tiles.heads, device=query.device)
    q_slot, k_slot = tiles.q_slot.flatten(2).long(), tiles.k_slot.flatten(2).long()
    asked = _taken(query, head, q_slot)
    keys, values = (_taken(part, head // (heads // key.shape[1]), k_slot) for part in (key, value))
    last = torch.where(q_slot < 0, -1, q_slot + (tiles.keys if tiles.offset is None else tiles.offset))
    place = torch.where(k_slot < 0, _NEVER, k_slot)
    mask = block_mask(
        tiles,
        lambda b, h, q, k: place[b, h, k] <= last[b, h, q],
        (tiles.q_slot.shape[2] * block_m, tiles.k_slot.shape[2] * block_n),
    )
    found = attend(asked, keys, values, block_mask=mask)
    # The last row is where empty slots write.
    output = value.new_zeros(batch * heads * rows + 1, value.shape[3])
    first = (torch.arange(batch, device=query.device)[:, None] * heads + head) * rows
    at = torch.where(q_slot < 0, len(output) - 1, first[..., None] + q_slot)
    output.index_copy_(0, at.flatten(), found.flatten(0, 2))
    return output[:-1].view(batch, heads, rows, -1)


def block_mask(tiles: Tiles, mask: Callable[..., Tensor] | None, lengths: tuple[int, int]) -> BlockMask:
    """The lists of `tiles` as FlexAttention takes them: tiles to be masked, and full ones.

    Args:
        tiles: any.
        mask: which pairs of a tile that is not full are seen, by sample, plan, slot of a query and slot of a key.
        lengths: slots of queries and of keys.
    """
    (batch, plans, rows), keys = tiles.q_slot.shape[:3], tiles.k_slot.shape[2]
    which = torch.arange(keys, device=tiles.ids.device)
    entry = (tiles.start.clamp(min=0)[..., None] + which).clamp(max=max(0, len(tiles.ids) - 1))
    listed = torch.where(tiles.start[..., None] < 0, which.int(), tiles.ids[entry]) if len(tiles.ids) else which
    every = listed.expand(batch, plans, rows, keys).to(torch.int32).contiguous()
    masked = every.gather(-1, (tiles.full[..., None] + which).clamp(max=keys - 1).long())
    return BlockMask.from_kv_blocks(
        tiles.count - tiles.full, masked, tiles.full, every, BLOCK_SIZE=tiles.block, mask_mod=mask,
        seq_lengths=lengths, compute_q_blocks=False,
    )  # fmt: skip


def _taken(states: Tensor, head: Tensor, slot: Tensor) -> Tensor:
    """Rows of (B, H, N, D) in the order of slots (B, P, S), of the head of each plan: (B, P, S, D)."""
    batch, heads, length, dim = states.shape
    first = (torch.arange(batch, device=states.device)[:, None] * heads + head) * length
    at = first[..., None] + slot.clamp(min=0)
    return states.reshape(-1, dim).index_select(0, at.flatten()).view(*slot.shape, dim)
