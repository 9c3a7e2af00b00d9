"""Attention by groups of keys for the rows after a picture: alone, and beside the prefill attention it corrects."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vtokens.bench.case import BenchSetting, Case, Work, ours
from vtokens.bench.dense import sampled_error, sdpa
from vtokens.bench.kernels.attention_colsum import last_rows
from vtokens.kernels import group_weights, grouped_attention, reweigh

GROUPS = 4


def cases(setting: BenchSetting) -> Iterator[Case]:
    """The last 256 rows over text, sinks and a picture, at rising lengths; and one row, as in decoding."""
    lengths = (8192, 32768, 131072) if setting.cuda else (2048,)
    for length in (512,) if setting.quick else lengths:
        query = setting.randn(1, 28, length, 128)
        key, value = setting.randn(1, 4, length, 128), setting.randn(1, 4, length, 128)
        yield _alone(setting, query, key, value, 256)
        yield _alone(setting, query, key, value, 1)
        yield _beside(setting, query, key, value, 256)


def groups_of(length: int, device: torch.device) -> Tensor:
    """int64 (1, N): text around a picture, and every hundredth token of either a sink."""
    place = torch.arange(length, device=device)
    visual, sink = (place >= 32) & (place < length - 256), place % 100 == 0
    return torch.where(visual, torch.where(sink, 1, 2), torch.where(sink, 0, 3))[None]


def _alone(setting: BenchSetting, query: Tensor, key: Tensor, value: Tensor, rows: int) -> Case:
    (some, place), group = last_rows(query, rows), groups_of(key.shape[2], key.device)

    def merged(_: object) -> Tensor:
        outputs, lse = grouped_attention(some, key, value, group, GROUPS, query.shape[3] ** -0.5, place)
        return reweigh(outputs, group_weights(lse))

    def seen(which: Tensor) -> Tensor:
        return torch.arange(key.shape[2], device=key.device) <= place[0, which][:, None]

    providers = ours(setting, merged)
    mask = torch.arange(key.shape[2], device=key.device) <= place[0][:, None]
    providers |= sdpa(some, key, value, causal=False, mask=mask)
    return Case(
        (1, query.shape[1], key.shape[1], query.shape[3], rows, key.shape[2]), f"{GROUPS} groups, merged", 1.0,
        work(query, key, rows), providers, sampled_error(some, key, value, seen),
    )  # fmt: skip


def _beside(setting: BenchSetting, query: Tensor, key: Tensor, value: Tensor, rows: int) -> Case:
    (some, place), group = last_rows(query, rows), groups_of(key.shape[2], key.device)

    def both(_: object) -> tuple[Tensor, Tensor]:
        output = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return output, grouped_attention(some, key, value, group, GROUPS, query.shape[3] ** -0.5, place)[0]

    (batch, heads, length, dim), few = query.shape, work(query, key, rows)
    providers = ours(setting, both) | sdpa(query, key, value, causal=True, matrix=False, same=False)
    attention = 2 * 2 * batch * heads * dim * length * (length + 1) / 2
    moved = 2 * (query.numel() + key.numel()) * query.element_size()
    return Case(
        (1, heads, key.shape[1], dim, length, length), f"{GROUPS} groups, {rows} rows, beside attention", 1.0,
        Work(few.flops + attention, few.bytes + moved), providers,
    )  # fmt: skip


def work(query: Tensor, key: Tensor, rows: int) -> Work:
    """The operations and bytes of each pair of a row and a key once, whatever the number of groups."""
    (batch, heads, length, dim), size = query.shape, query.element_size()
    moved = 2 * key.numel() * size + batch * heads * rows * dim * (size + 4)
    return Work(4 * batch * heads * rows * length * dim, moved)
