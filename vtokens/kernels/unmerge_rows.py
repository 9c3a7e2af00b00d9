"""A few query rows over all copies of unique keys, without copies of the values: decoding after unmerging."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels._check import check_range, check_shape, check_states
from vtokens.kernels._dispatch import use_triton
from vtokens.kernels._precision import as_given
from vtokens.kernels.attention_rows import HIDDEN


@as_given
def unmerge_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    member: Tensor,
    angle: Tensor,
    scaling: float,
    valid: Tensor | None = None,
) -> Tensor:
    """Attention that sees each key at all of its positions: scores need every copy, turned by its own angle.

    Args:
        query: (B, H, R, D), rotary embedding applied; rows see all keys.
        key: (B, H_kv, U, D), not rotated; H is a multiple of H_kv.
        value: (B, H_kv, U, D_v).
        member: int64 (B, N), the key at each position, in [0, U).
        angle: complex64 (B or 1, N, D / 2), cos + i sin of what turns dimensions d and d + D/2; 1 turns nothing.
        scaling: the factor on the products.
        valid: bool (B, N), False on positions nobody may attend to; None if there are none.

    Returns:
        (B, H, R, D_v), in the dtype of `value`; scores and probabilities are float32 throughout. Zero for rows that see
        nothing.

    Raises:
        TypeError: dtypes that differ, or are no floating point; a map that is no integer.
        ValueError: shapes that do not fit together, a key out of range. For the latter an accelerator is not asked: it
            costs more than a decoding step has to spare.
    """
    check_states(query, key, value)
    (batch, _, _, dim), length = query.shape, member.shape[-1]
    check_shape("member", member, (batch, length))
    check_range("member", member, 0, key.shape[2] - 1, asserted=False)
    check_shape("angle", angle, (batch, length, dim // 2), (1, length, dim // 2))
    if valid is not None:
        check_shape("valid", valid, (batch, length))
    if use_triton(query, key, value) and length:
        from vtokens.kernels._triton.unmerge_rows import unmerge_rows as fused

        return fused(query, key, value, member, angle, scaling, valid)
    return reference(query, key, value, member, angle, scaling, valid)


def reference(
    query: Tensor, key: Tensor, value: Tensor, member: Tensor, angle: Tensor, scaling: float, valid: Tensor | None
) -> Tensor:
    """In plain PyTorch: probabilities of copies meet one value, so they are added up first."""
    (batch, heads, rows, dim), kv_heads = query.shape, key.shape[1]
    # Pairs of dimensions as complex numbers: one product turns a copy, and the query is laid out alike.
    grouped = _pairs(query.reshape(batch, kv_heads, heads // kv_heads * rows, dim))
    first = torch.arange(batch, device=member.device)[:, None]
    copies = _pairs(key.transpose(1, 2))[first, member] * angle[:, :, None]
    scores = torch.view_as_real(grouped).flatten(-2) @ torch.view_as_real(copies).flatten(-2).permute(0, 2, 3, 1)
    scores *= scaling
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None, None], HIDDEN)
    probability = scores.softmax(-1)
    total = scores.new_zeros(*scores.shape[:-1], key.shape[2])
    total.scatter_add_(-1, member[:, None, None].expand_as(probability), probability)
    output = (total.to(value.dtype) @ value).view(batch, heads, rows, -1)
    return output if valid is None else output.masked_fill(~valid.any(1)[:, None, None, None], 0)


def _pairs(states: Tensor) -> Tensor:
    """complex64 (..., D / 2) of (..., D): dimension d and d + D/2 as one number."""
    return torch.complex(*states.float().chunk(2, -1))
