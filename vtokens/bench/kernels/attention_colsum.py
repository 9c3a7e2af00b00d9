"""Scores of keys over the last rows: alone, and beside the prefill attention whose output they accompany."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vtokens.bench.case import BenchSetting, Case, Provider, Work, ours
from vtokens.bench.dense import sdpa
from vtokens.kernels import attention_colsum

ROWS = 64


def cases(setting: BenchSetting) -> Iterator[Case]:
    """The last 64 rows of a layer shaped like Qwen2.5-VL-7B's, at rising lengths; causal."""
    lengths = (8192, 32768, 131072) if setting.cuda else (2048,)
    for length in (256,) if setting.quick else lengths:
        query = setting.randn(1, 28, length, 128)
        key, value = setting.randn(1, 4, length, 128), setting.randn(1, 4, length, 128)
        yield _alone(setting, query, key)
        yield _beside(setting, query, key, value)


def _alone(setting: BenchSetting, query: Tensor, key: Tensor) -> Case:
    rows, place = last_rows(query)
    providers = ours(setting, lambda _: attention_colsum(rows, key, position=place))
    providers["eager"] = Provider(lambda _: _probabilities(rows, key, place).sum(2))
    return Case(
        (1, query.shape[1], key.shape[1], query.shape[3], ROWS, key.shape[2]), "last rows, alone", 1.0,
        work(query, key), providers, lambda sums: _error(sums, rows, key, place),
    )  # fmt: skip


def _beside(setting: BenchSetting, query: Tensor, key: Tensor, value: Tensor) -> Case:
    rows, place = last_rows(query)

    def both(_: object) -> tuple[Tensor, Tensor]:
        output = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return output, attention_colsum(rows, key, position=place)

    def given(_: object) -> tuple[Tensor, Tensor]:
        output, lse = attend(query, key, value, 0.0, True)[:2]
        return output, attention_colsum(rows, key, position=place, lse=lse[:, :, -ROWS:])

    attend = torch.ops.aten._scaled_dot_product_flash_attention
    if not setting.cuda:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    providers = ours(setting, both)
    providers |= {f"{name}, lse given": provider for name, provider in ours(setting, given).items()}
    providers |= sdpa(query, key, value, causal=True, matrix=False, same=False)
    (batch, heads, length, dim), few = query.shape, work(query, key)
    attention = 2 * 2 * batch * heads * dim * length * (length + 1) / 2
    moved = 2 * (query.numel() + key.numel()) * query.element_size()
    return Case(
        (1, heads, key.shape[1], dim, length, length), "last rows, beside attention", 1.0,
        Work(few.flops + attention, few.bytes + moved), providers,
        lambda found: _error(found[1], rows, key, place),
    )  # fmt: skip


def last_rows(query: Tensor, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """The last rows (B, H, R, D) of queries (B, H, N, D), and their positions (B, R)."""
    length = query.shape[2]
    return query[:, :, -rows:], torch.arange(length - rows, length, device=query.device).expand(len(query), -1)


def work(query: Tensor, key: Tensor, rows: int = ROWS) -> Work:
    """The operations and bytes of one product of the rows with the keys, and a number for each key of each head."""
    (batch, heads, length, dim), size = query.shape, query.element_size()
    moved = (batch * heads * rows * dim + key.numel()) * size + 4 * batch * heads * length
    return Work(2 * batch * heads * rows * length * dim, moved)


def _probabilities(rows: Tensor, key: Tensor, place: Tensor) -> Tensor:
    scores = rows @ key.repeat_interleave(rows.shape[1] // key.shape[1], 1).mT * rows.shape[-1] ** -0.5
    hidden = torch.arange(key.shape[2], device=key.device) > place[:, None, :, None]
    return scores.float().masked_fill(hidden, -torch.inf).softmax(-1)


def _error(sums: Tensor, rows: Tensor, key: Tensor, place: Tensor) -> float:
    worst = 0.0
    for head in range(rows.shape[1]):  # the matrix of one head in float64 at a time
        k = key[:, head // (rows.shape[1] // key.shape[1])].double()
        scores = rows[:, head].double() @ k.mT * rows.shape[-1] ** -0.5
        hidden = torch.arange(key.shape[2], device=key.device) > place[..., None]
        expected = scores.masked_fill(hidden, -torch.inf).softmax(-1).sum(1)
        worst = max(worst, float((sums[:, head] - expected).abs().max()))
    return worst
