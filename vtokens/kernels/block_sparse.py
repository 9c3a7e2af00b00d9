"""Attention over listed tiles of queries and keys, in whatever order these stand."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels._check import check_states
from vtokens.kernels._dispatch import use_triton
from vtokens.kernels._precision import as_given
from vtokens.kernels.tiled import Plans
from vtokens.kernels.tiles import Tiles

_COPIES = 1 << 24
"""Most elements of keys brought into another order at once: 64 MiB in float32, and as many of values."""


@as_given
def block_sparse_attention(
    query: Tensor, key: Tensor, value: Tensor, tiles: Tiles, scaling: float | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax attention in which each query tile sees the key tiles of its list, and of these what causality allows.

    Two calls whose lists share no tile merge by their log-sum-exps into the call with both. Gradients flow in plain
    PyTorch only, which runs wherever they are wanted.

    Args:
        query: (B, H, M, D), rotary embedding applied; any strides.
        key: (B, H_kv, N, D); H is a multiple of H_kv (grouped-query attention), keys are never repeated.
        value: (B, H_kv, N, D_v).
        tiles: which tiles, for these M rows and N keys; padding is what no slot holds.
        scaling: the factor on the products; default 1 / sqrt(D).

    Returns:
        output: (B, H, M, D_v), dtype of `value`, the heads of a row side by side in memory; zero where a row is in no
            slot or sees no key.
        lse: float32 (B, H, M) (float64 for such inputs), natural logarithm, -inf there.

    Raises:
        TypeError: dtypes that differ, or are no floating point.
        ValueError: shapes that do not fit together or to `tiles`.
    """
    _check(query, key, value, tiles)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if use_triton(query, key, value):
        from vtokens.kernels._triton.block_sparse import block_sparse_attention as fused

        return fused(query, key, value, tiles, scaling)
    return _plain(query, key, value, tiles, scaling)


def _plain(query: Tensor, key: Tensor, value: Tensor, tiles: Tiles, scaling: float) -> tuple[Tensor, Tensor]:
    """In plain PyTorch; waits for the device to read how long the lists are."""
    batch, heads, rows, _ = query.shape
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    # The last row is where empty slots write.
    output = value.new_zeros(batch * rows * heads + 1, value.shape[3])
    lse = torch.full(output.shape[:1], -torch.inf, dtype=wide, device=value.device)
    share = max(1, _COPIES // max(1, batch * tiles.k_slot[0, 0].numel() * max(key.shape[3], value.shape[3])))
    for first in range(0, len(tiles.heads), share):
        plans = Plans(query, key, value, tiles, slice(first, first + share), scaling, wide)
        for chunk in plans.chunks():
            found, sums, place = plans.attend(chunk)
            output = output.index_copy_(0, place, found.to(value.dtype))
            lse = lse.index_copy_(0, place, sums)
    return (
        output[:-1].view(batch, rows, heads, value.shape[3]).transpose(1, 2),
        lse[:-1].view(batch, rows, heads).transpose(1, 2),
    )


def _check(query: Tensor, key: Tensor, value: Tensor, tiles: Tiles) -> None:
    check_states(query, key, value)
    batch, heads, rows, _ = query.shape
    if (tiles.q_slot.shape[0], tiles.rows, tiles.keys) != (batch, rows, key.shape[2]):
        raise ValueError(
            f"the tiles are for a batch of {tiles.q_slot.shape[0]}, {tiles.rows} rows and {tiles.keys} keys, "
            f"but query and key have {batch}, {rows} and {key.shape[2]}"
        )
    if not all(0 <= head < heads for head in tiles.heads):
        raise ValueError(f"the tiles name the heads {tiles.heads}: 0 to {heads - 1} is allowed")
