"""Attention that keys receive where pictures see each other across the text between them (`BothWays.apart`).

A row of a picture sees all of its stretch, and of all else what comes before: with the keys of the stretch put first,
that is again all keys up to some one. Other rows see what comes before, in the order of the sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vtokens.kernels import attention_colmax

Pool = Callable[..., Tensor]


def pooled_apart(
    pool: Pool, read: Pool, ids: Tensor, where: Tensor, past: int, query: Tensor, key: Tensor, weight: Tensor | None,
    allowed: Tensor | None, bias: Tensor | None, others: dict[str, Any],
) -> Tensor:  # fmt: skip
    """float32 (B, K), (B, K, H) of each head: attention that keys receive, the mean over heads and rows, or the most.

    Args:
        pool: `attention_colmean`, `attention_colmax` or `attention_by_head`.
        read: calls it with query, key, weight, until, allowed, bias by name, and `others`.
        ids: int64 (B, W), the stretch of each column of the pass, below 0 where it is in none.
        where: int64 (B, R), the columns of the queries.
        past: keys before those of the pass.
        query, key, weight, allowed, bias: (B, H, R, d), (B, H_kv, K, d), bool (B, R), bool (B, K), (B, [H_kv,] K).
    """
    counts = torch.ones_like(where, dtype=torch.bool) if weight is None else weight
    mine, causal = ids.gather(1, where) >= 0, where + past
    inside = torch.nn.functional.pad(ids >= 0, (past, 0))[:, : key.shape[2]]
    order = (~inside).long().argsort(dim=1, stable=True)
    before = (~inside).long().cumsum(1).gather(1, causal)
    moved = {
        **others,
        "key": key.gather(2, order[:, None, :, None].expand_as(key)),
        "allowed": None if allowed is None else allowed.gather(1, order),
        "bias": None if bias is None else bias.gather(-1, order if bias.dim() == 2 else order[:, None].expand_as(bias)),
        "until": inside.sum(1, keepdim=True) + before - 1,
        "weight": counts & mine,
    }
    if others.get("angles") is not None:
        rows, keys = others["angles"]
        moved["angles"] = rows, keys.gather(1, order[..., None].expand_as(keys))
    there = read(pool, query=query, **moved)
    seen = torch.zeros_like(there).scatter(1, _like(order, there).expand_as(there), there)
    rest = read(
        pool, query=query, key=key, weight=counts & ~mine, until=causal, allowed=allowed, bias=bias, **others
    )  # fmt: skip
    if pool is attention_colmax:
        return torch.maximum(seen, rest)
    total = counts.sum(1, keepdim=True).clamp(min=1)
    share = (counts & mine).sum(1, keepdim=True) / total
    share = _like(share, seen)
    return share * seen + (1 - share) * rest


def _like(values: Tensor, other: Tensor) -> Tensor:
    """Values (B, K) with as many dimensions as others (B, K, ...)."""
    return values.view(*values.shape, *[1] * (other.dim() - 2))
