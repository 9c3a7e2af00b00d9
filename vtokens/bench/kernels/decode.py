"""One new row over buffers that samples and heads have filled to different lengths, against masks over the buffers."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vtokens.bench.case import BenchSetting, Case, Work, ours
from vtokens.bench.dense import sampled_error, sdpa
from vtokens.kernels import decode_attention


def cases(setting: BenchSetting) -> Iterator[Case]:
    """Lengths from a quarter of the buffer to all of it, one a sample or one a key-value head."""
    lengths = (8192, 32768, 131072) if setting.cuda else (4096,)
    for length in (512,) if setting.quick else lengths:
        for batch in (1, 8) if setting.cuda else (4,):
            for by_head in (False, True):
                yield _case(setting, batch, length, by_head)


def _case(setting: BenchSetting, batch: int, length: int, by_head: bool) -> Case:
    heads, kv_heads, dim = 28, 4, 128
    query = setting.randn(batch, heads, 1, dim)
    key, value = setting.randn(batch, kv_heads, length, dim), setting.randn(batch, kv_heads, length, dim)
    share = torch.linspace(0.25, 1, batch * kv_heads if by_head else batch, device=setting.device)
    filled = (share * length).long().view(batch, -1)
    mask = torch.arange(length, device=setting.device) < filled[..., None]
    mask = mask.repeat_interleave(heads // mask.shape[1], 1)[:, :, None]
    given = filled if by_head else filled[:, 0]
    providers = ours(setting, lambda _: decode_attention(query, key, value, given))
    providers |= sdpa(query, key, value, causal=False, mask=mask)
    total, size = int(filled.expand(-1, kv_heads).sum()), query.element_size()
    work = Work(
        4 * total * (heads // kv_heads) * dim,
        2 * total * dim * size + 2 * query.numel() * size,
        4 * batch * heads * length * dim,
    )
    return Case(
        (batch, heads, kv_heads, dim, 1, length), f"a length a {'key-value head' if by_head else 'sample'}",
        total / (batch * kv_heads * length), work, providers, sampled_error(query, key, value, lambda _: mask),
    )  # fmt: skip
