"""Text rows over a tenth of the visual keys, listed for each key-value head, against masks and packed copies."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vtokens.bench.case import BenchSetting, Case, Provider, Work, ours
from vtokens.bench.dense import sampled_error, sdpa
from vtokens.kernels import gathered_attention

SHARE = 0.1


def cases(setting: BenchSetting) -> Iterator[Case]:
    """One row and 64, lists for all heads or for each that shares keys, at rising lengths."""
    lengths = (8192, 32768, 131072) if setting.cuda else (2880, 32768)
    for length in (512,) if setting.quick else lengths:
        key, value = setting.randn(1, 4, length, 128), setting.randn(1, 4, length, 128)
        for rows in (1, 64):
            query = setting.randn(1, 28, rows, 128)
            for lists in (1, 4):
                yield _case(setting, query, key, value, lists)


def _case(setting: BenchSetting, query: Tensor, key: Tensor, value: Tensor, lists: int) -> Case:
    (_, heads, rows, dim), (kv_heads, length) = query.shape, key.shape[1:3]
    count = max(1, int(SHARE * length))
    index = torch.rand(1, lists, length, device=setting.device).argsort(-1)[..., :count].sort(-1).values
    mask = torch.zeros(1, lists, length, dtype=torch.bool, device=setting.device).scatter_(-1, index, True)
    mask = mask.repeat_interleave(heads // lists, 1)[:, :, None]
    index = index.to(torch.int32)

    def packed(_: object) -> Tensor:
        at = index.long().expand(-1, kv_heads, -1)[..., None].expand(-1, -1, -1, dim)
        states = key.gather(2, at), value.gather(2, at)
        return scaled_dot_product_attention(query, *states, enable_gqa=True)

    providers = ours(setting, lambda _: gathered_attention(query, key, value, index))
    providers["packed + sdpa"] = Provider(packed)
    providers |= sdpa(query, key, value, causal=False, mask=mask.expand(-1, -1, rows, -1), matrix=False)
    size = query.element_size()
    moved = 2 * kv_heads * count * dim * size + 2 * query.numel() * size
    work = Work(4 * heads * rows * count * dim, moved, 4 * heads * rows * length * dim)
    name = "a list for all heads" if lists == 1 else "a list for each key-value head"
    return Case(
        (1, heads, kv_heads, dim, rows, length), name, count / length, work, providers,
        sampled_error(query, key, value, lambda _: mask),
    )  # fmt: skip
