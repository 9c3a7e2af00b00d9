"""One or a few new rows over caches of which each sample, or each of its key-value heads, has filled another length.

A part of the library only: the engine pads caches on the left, so that all have one length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.kernels._check import check_range, check_shape, check_states
from vtokens.kernels._dispatch import use_triton
from vtokens.kernels._masked import masked_attention
from vtokens.kernels._precision import as_given


@as_given
def decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    length: Tensor,
    scaling: float | None = None,
    causal: bool = True,
    group: Tensor | None = None,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Softmax attention over the first `length` keys of each cache.

    Buffers, lengths and launches have sizes that do not depend on what the lengths are, so a CUDA graph holds for all.

    Args:
        query: (B, H, R, D), the newest rows, rotary embedding applied; any strides.
        key: (B, H_kv, N, D), buffers with the new keys in them; H is a multiple of H_kv (grouped-query attention).
            What lies behind a length may hold anything.
        value: (B, H_kv, N, D_v).
        length: int (B,) or (B, H_kv), filled keys, 0 to N.
        scaling: the factor on the products; default 1 / sqrt(D).
        causal: the rows are the last R of the filled keys: row r does not see the R - 1 - r keys behind it.
        group: int (B, N), the group of each key in [0, groups); ids outside are masked out. None: keys are not split.
        groups: how many groups there are.

    Returns:
        output: (B, H, R, D_v), dtype of `value`, zero where a row sees no key. With `group` float32 (groups, B, H, R,
            D_v), over each group alone, for `reweigh`.
        lse: float32 (B, H, R) (float64 for such inputs), natural logarithm, -inf there; with `group` (groups, B, H, R).

    Raises:
        TypeError: dtypes that differ, or are no floating point; lengths that are no integers.
        ValueError: shapes that do not fit together, a length out of range. On an accelerator, where looking costs more
            than a step has to spare, such a length counts as the nearest that is allowed.
    """
    check_states(query, key, value)
    (batch, _, _, dim), (_, kv_heads, keys, _) = query.shape, key.shape
    check_shape("length", length, (batch,), (batch, kv_heads))
    check_range("length", length, 0, keys, asserted=False)
    if group is not None:
        check_shape("group", group, (batch, keys))
    elif groups != 1:
        raise ValueError(f"groups={groups} without group: the group of each key is needed, (B, N)")
    length = (length if length.dim() == 2 else length[:, None]).expand(-1, kv_heads)
    scaling = dim**-0.5 if scaling is None else scaling
    if use_triton(query, key, value):
        from vtokens.kernels._triton.decode import decode_attention as fused

        outputs, lse = fused(query, key, value, length, scaling, causal, group, groups)
    else:
        outputs, lse = reference(query, key, value, length, scaling, causal, group, groups)
    return (outputs[0].to(value.dtype), lse[0]) if group is None else (outputs, lse)


def reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    length: Tensor,
    scaling: float,
    causal: bool,
    group: Tensor | None = None,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """In plain PyTorch, lengths (B, H_kv): outputs (groups, B, H, R, D_v) and log-sum-exps (groups, B, H, R)."""
    rows, keys, device = query.shape[2], key.shape[2], query.device
    if device.type == "cpu" and length.numel():
        keys = int(length.max())  # where reading it is free, what nobody sees is left out
        key, value = key[:, :, :keys], value[:, :, :keys]
    behind = torch.arange(rows - 1, -1, -1, device=device) if causal else torch.zeros(1, device=device)
    end = length[..., None] - behind
    seen: Tensor | None = torch.arange(keys, device=device) < end[..., None]
    if group is None:
        if device.type == "cpu" and bool((end >= keys).all()):
            seen = None
        outputs, lse = masked_attention(query, key, value, scaling, seen)
        return outputs[None], lse[None]
    assert seen is not None
    parts = [
        masked_attention(query, key, value, scaling, seen & (group[:, None, None, :keys] == g)) for g in range(groups)
    ]
    return torch.stack([output for output, _ in parts]), torch.stack([lse for _, lse in parts])
