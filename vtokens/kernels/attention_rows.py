"""A few rows of an attention matrix, beside whatever attention implementation computes the output."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vtokens.kernels._precision import as_given

HIDDEN = torch.finfo(torch.float32).min
"""The score of a key that a row may not see: unlike -inf it leaves rows that see nothing without NaN."""
_CHUNK = {"cpu": 1 << 20}
"""Most probabilities held at once, in elements, by device type: on a CPU 4 MiB, which its caches hold."""
_CHUNK_ELSEWHERE = 1 << 22
"""On an accelerator 16 MiB: few launches, and less than the activations of the layer that is watched."""


def chunk_of(device: torch.device) -> int:
    """How many probabilities may be held at once on `device`."""
    return _CHUNK.get(device.type, _CHUNK_ELSEWHERE)


@as_given
def attention_rows(
    query: Tensor,
    key: Tensor,
    scaling: float,
    position: Tensor | None = None,
    valid: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention probabilities of chosen query rows: softmax(q k^T * scaling) in float32.

    Args:
        query: (B, H, R, D), the chosen rows only, rotary embedding applied.
        key: (B, H_kv, N, D); H is a multiple of H_kv (grouped-query attention).
        scaling: the factor on the products.
        position: int64 (B, R) key index of each row; keys after it are masked (causal). None: all keys are seen.
        valid: bool (B, N), False on keys nobody may attend to.
        bias: float32 (B, N), added to the scores of each key; -inf is a key nobody may attend to.
        softcap: c, where scores s become c * tanh(s / c) before the bias (Gemma 2); None leaves them as they are.

    Returns:
        float32 (B, H, R, N); rows sum to 1, rows without any key are zero. Keys that are masked may hold anything; a
        NaN that a row does see makes the whole row NaN.
    """
    scores, seen = row_scores(query, key, scaling, position, valid, bias, softcap)
    probability = scores.softmax(-1)
    return probability if seen is None else probability.masked_fill(~seen.any(-1, keepdim=True)[:, None], 0)


def counted_rows(
    query: Tensor, key: Tensor, scaling: float, rows: Tensor | None, position: Tensor | None, valid: Tensor | None,
    bias: Tensor | None, softcap: float | None,
) -> Iterator[tuple[slice, Tensor]]:  # fmt: skip
    """The probabilities of all rows, as many rows at a time as `chunk_of` allows.

    Args:
        query, key, scaling, position, valid, bias, softcap: as in `attention_rows`.
        rows: bool (B, R), which rows count; None counts all.

    Yields:
        Which rows they are, and float32 (B, H, r, N), 0 in rows that do not count.
    """
    (batch, heads, length, _), keys = query.shape, key.shape[2]
    chunk = max(1, chunk_of(query.device) // max(1, batch * heads * keys))
    for first in range(0, length, chunk):
        part = slice(first, first + chunk)
        where = None if position is None else position[:, part]
        share = attention_rows(query[:, :, part], key, scaling, where, valid, bias, softcap)
        yield part, share if rows is None else share.masked_fill(~rows[:, None, part, None], 0)


def row_scores(
    query: Tensor, key: Tensor, scaling: float, position: Tensor | None, valid: Tensor | None, bias: Tensor | None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Scores float32 (B, H, R, N), `HIDDEN` where masked, and which keys a row sees, bool (B, R or 1, N), None for all.

    Products of half-precision numbers are summed and kept in float32, as a fused kernel does.
    """
    batch, heads, rows, dim = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    wide = torch.promote_types(query.dtype, torch.float32)
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * rows, dim).to(wide) * scaling
    scores = (grouped @ key.to(wide).transpose(-1, -2)).float().view(batch, heads, rows, keys)
    scores = capped(scores, softcap)
    seen = seen_keys(key, position, valid)
    if bias is not None:
        open_ = (bias != -torch.inf)[:, None]
        seen, scores = open_ if seen is None else seen & open_, scores + bias[:, None, None]
    return scores if seen is None else scores.masked_fill_(~seen[:, None], HIDDEN), seen


def seen_keys(key: Tensor, position: Tensor | None, valid: Tensor | None) -> Tensor | None:
    """bool (B, R or 1, N): the keys (B, H_kv, N, D) that each row sees, as `attention_rows` has them; None for all."""
    if position is None:
        return None if valid is None else valid[:, None]
    seen = torch.arange(key.shape[2], device=key.device) <= position[..., None]
    return seen if valid is None else seen & valid[:, None]


def capped(scores: Tensor, softcap: float | None) -> Tensor:
    """c * tanh(scores / c) for a cap c; the scores as they are for None."""
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)
