"""Decoding over caches of unequal lengths: `attend` splits each cache by its own length, and the parts are merged."""

from __future__ import annotations

from torch import Tensor

from vtokens.kernels._triton.attend import attend, merge


def decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    length: Tensor,
    scaling: float,
    causal: bool,
    group: Tensor | None = None,
    groups: int = 1,
    tile: tuple[int, int] | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As `vtokens.kernels.decode_attention` for lengths (B, H_kv), in float32 and with a dimension for groups.

    `tile` (rows, keys) and `splits` of each cache are chosen if not given, by the size of the buffers.
    """
    parts = attend(
        query, key, value, scaling,
        group=group, groups=groups, length=length, causal=causal, tile=tile, splits=splits,
    )  # fmt: skip
    return merge(*parts)
