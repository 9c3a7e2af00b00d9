"""A round of token merging against the matrix of all similarities."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vtokens.bench.case import BenchSetting, Case, Provider, Work, ours
from vtokens.bench.kernels.farthest_point import clusters
from vtokens.kernels import bipartite_merge

_THRESHOLD = 0.9


def cases(setting: BenchSetting) -> Iterator[Case]:
    """Rounds in a tower of 577 tokens, and over the tokens of a long video."""
    shapes = [(10, 577, 1024, 64), (1, 8192, 1024, 64)]
    if setting.cuda:
        shapes.append((1, 32768, 1280, 80))
    for batch, tokens, width, dim in [(2, 65, 64, 16)] if setting.quick else shapes:
        yield _case(setting, batch, tokens, width, dim)


def _case(setting: BenchSetting, batch: int, tokens: int, width: int, dim: int) -> Case:
    hidden, metric = setting.randn(batch, tokens, width), clusters(setting, batch, tokens, dim)
    size = torch.ones(batch, tokens, device=setting.device)
    valid = torch.ones(batch, tokens, dtype=torch.bool, device=setting.device)

    def error(merged: Tensor) -> float:
        """Against float64 on the first set; its near ties may go either way."""
        exact = by_matrix(hidden[:1].double(), size[:1].double(), metric[:1].double())
        return float((merged[0].double() - exact[0]).abs().max())

    providers = ours(setting, lambda _: bipartite_merge(hidden, size, metric, valid, _THRESHOLD)[0])
    providers["matrix"] = Provider(lambda _: by_matrix(hidden, size, metric))
    pairs = batch * (tokens // 2) * (tokens - tokens // 2)
    moved = (2 * hidden.numel() + metric.numel()) * hidden.element_size()
    return Case(
        (batch, 0, 0, dim, tokens, tokens), f"{width} channels", 1.0, Work(2 * pairs * dim, moved), providers, error
    )


def by_matrix(hidden: Tensor, size: Tensor, metric: Tensor) -> Tensor:
    """The same round as it is usually written: the whole matrix, its largest entries, and a scattered mean."""
    unit = torch.nn.functional.normalize(metric if metric.dtype == torch.float64 else metric.float(), dim=-1)
    score, best = (unit[:, 0::2] @ unit[:, 1::2].mT).max(-1)
    row = torch.arange(hidden.shape[1], device=hidden.device).repeat(len(hidden), 1)
    row[:, 0::2] = torch.where(score > _THRESHOLD, 2 * best + 1, row[:, 0::2])
    total = torch.zeros_like(size).scatter_add(1, row, size)
    weighed = hidden.to(size.dtype) * size[..., None]
    mean = torch.zeros_like(weighed).scatter_add(1, row[..., None].expand_as(weighed), weighed)
    return (mean / total.clamp(min=1e-30)[..., None]).to(hidden.dtype)
