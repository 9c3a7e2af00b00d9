"""Attention of merged tokens at all of their positions: unfolding, turning, attention and means, and the rest alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vtokens.bench.case import BenchSetting, Case, Provider, Work, ours
from vtokens.kernels import group_mean, rotate, unfold, unmerge_attention

MERGED = 4
"""Positions of each unique row."""


def cases(setting: BenchSetting) -> Iterator[Case]:
    """A layer shaped like LLaVA-1.5-7B's, and one with grouped heads, at rising lengths; nothing is padded."""
    lengths = (2048, 8192, 32768) if setting.cuda else (1024,)
    for length in (256,) if setting.quick else lengths:
        for heads, kv_heads in ((32, 32), (28, 4)):
            yield _case(setting, heads, kv_heads, length, whole=True)
            yield _case(setting, heads, kv_heads, length, whole=False)


def _case(setting: BenchSetting, heads: int, kv_heads: int, length: int, whole: bool) -> Case:
    unique, dim = length // MERGED, 128
    query = setting.randn(1, heads, unique, dim)
    key, value = setting.randn(1, kv_heads, unique, dim), setting.randn(1, kv_heads, unique, dim)
    member = torch.arange(length, device=setting.device)[None] % unique
    angle = torch.arange(length, device=setting.device)[:, None] * 1e4 ** -torch.linspace(0, 1, dim // 2).to(
        setting.device
    )
    angle = torch.cat([angle, angle], -1)[None]
    cos, sin = angle.cos().to(setting.dtype), angle.sin().to(setting.dtype)

    def full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)

    # Whatever comes out of attention: what is timed is what lies around it.
    output = setting.randn(1, length, heads, dim).transpose(1, 2)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return full(q, k, v) if whole else output

    turned = rotate(unfold(query, member), cos, sin), rotate(unfold(key, member), cos, sin), unfold(value, member)
    providers = ours(setting, lambda _: unmerge_attention(query, key, value, member, cos, sin, attention))
    if whole:
        providers["attention alone"] = Provider(lambda _: full(*turned), same=False)
    size = query.element_size()
    # Each is read unique and written full, or the other way round.
    moved = (unique + length) * (2 * heads + 2 * kv_heads) * dim * size
    flops = 4 * heads * dim * length * (length + 1) / 2
    return Case(
        (1, heads, kv_heads, dim, length, length), "unmerged attention" if whole else "all but attention", 1.0,
        Work(flops if whole else 0, moved), providers,
        lambda got: _error(got, output, turned, member, unique, whole),
    )  # fmt: skip


def _error(
    got: Tensor, output: Tensor, turned: tuple[Tensor, Tensor, Tensor], member: Tensor, unique: int, whole: bool
) -> float:
    """The largest absolute error on the first head."""
    if whole:
        q, k, v = (part[:, :1].double() for part in turned)
        output = scaled_dot_product_attention(q, k, v, is_causal=True)
    return float((got[:, :1] - group_mean(output[:, :1].double(), member, unique)).abs().max())
