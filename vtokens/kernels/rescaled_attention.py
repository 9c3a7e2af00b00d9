"""Attention whose scores are changed key by key before the softmax, for chosen query rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vtokens.kernels._grouped import chunks
from vtokens.kernels._precision import as_given
from vtokens.kernels.attention_rows import HIDDEN, row_scores, seen_keys


@as_given
def rescaled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    factor: Tensor | None = None,
    tilt: Tensor | None = None,
    shift: Tensor | None = None,
    position: Tensor | None = None,
    valid: Tensor | None = None,
    softcap: float | None = None,
    change: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """softmax(factor * s + tilt * |s| + shift) v with s = q k^T * scaling, computed in float32.

    A factor above 1 sends negative scores further down; a tilt lifts positive and negative ones alike. A shift by
    log(w) makes a key count for w of its kind.

    Args:
        query: (B, H, R, D), the chosen rows only, rotary embedding applied.
        key: (B, H_kv, N, D); H is a multiple of H_kv (grouped-query attention), keys are never repeated.
        value: (B, H_kv, N, D_v).
        scaling: the factor on the products, usually 1 / sqrt(D).
        factor, tilt, shift: float32 (B, N), or (B, H, N) where heads differ; None leaves scores as they are.
        position: int64 (B, R) key index of each row; keys after it are masked (causal). None: all keys are seen.
        valid: bool (B, N), False on keys nobody may attend to.
        softcap: c, where scores s become c * tanh(s / c) before they are changed (Gemma 2).
        change: from attention probabilities, float32 (B, H, some of R, N), to what takes their place.

    Returns:
        float32 (B, H, R, D_v), zero where a row sees no key.
    """
    parts = []
    for rows, places in chunks(query, key, 1, position):
        scores, _ = row_scores(rows, key, scaling, None, None, None, softcap)
        changed = scores if factor is None else scores * _by_head(factor)
        if tilt is not None:
            changed = changed + scores.abs() * _by_head(tilt)
        if shift is not None:
            changed = changed + _by_head(shift)
        seen = seen_keys(key, places, valid)
        if seen is not None:
            changed = changed.masked_fill(~seen[:, None], HIDDEN)
        shares = changed.softmax(-1)
        if seen is not None:
            shares = shares * seen.any(-1)[:, None, :, None]
        shares = shares if change is None else change(shares)
        batch, heads, count, keys = shares.shape
        shares = shares.view(batch, key.shape[1], heads // key.shape[1] * count, keys).to(value.dtype)
        parts.append((shares @ value).float().view(batch, heads, count, value.shape[-1]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _by_head(values: Tensor) -> Tensor:
    """(B, N) or (B, H, N) -> what spreads to scores (B, H, R, N)."""
    return values[:, None, None] if values.dim() == 2 else values[:, :, None]
