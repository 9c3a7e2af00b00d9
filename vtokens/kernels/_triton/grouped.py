"""Grouped attention: each pair of a row and a group is a row of its own in `attend`."""

from __future__ import annotations

from torch import Tensor

from vtokens.kernels._triton.attend import attend, merge


def grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: Tensor,
    groups: int,
    scaling: float,
    position: Tensor | None,
    tile: tuple[int, int] | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As `vtokens.kernels.grouped_attention`; `tile` (rows, keys) and `splits` of the keys are chosen if not given."""
    parts = attend(query, key, value, scaling, group=group, groups=groups, position=position, tile=tile, splits=splits)
    return merge(*parts)
