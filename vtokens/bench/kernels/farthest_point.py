"""The greedy diverse subset against the loop that passes over all tokens for each choice."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vtokens.bench.case import BenchSetting, Case, Provider, Work, ours
from vtokens.kernels import farthest_point
from vtokens.kernels.farthest_point import OBJECTIVES


def cases(setting: BenchSetting) -> Iterator[Case]:
    """Both objectives, a tenth of each set; tokens in clusters, as those of a picture are."""
    shapes = [(10, 2880, 1024)]
    if setting.cuda:
        shapes = [(1, 2880, 3584), (10, 2880, 1024), (1, 32768, 1024)]
    for groups, most, dim in [(2, 320, 64)] if setting.quick else shapes:
        tokens = clusters(setting, groups, most, dim)
        for objective in OBJECTIVES:
            yield _case(setting, tokens, objective, max(1, most // 10))


def clusters(setting: BenchSetting, groups: int, most: int, dim: int) -> Tensor:
    """Tokens around 60 centres, with what all have in common."""
    centre = setting.randn(groups, 60, dim) + setting.randn(groups, 1, dim)
    which = torch.randint(0, 60, (groups, most, 1), device=setting.device)
    return centre.gather(1, which.expand(-1, -1, dim)) + 0.5 * setting.randn(groups, most, dim)


def _case(setting: BenchSetting, tokens: Tensor, objective: str, picks: int) -> Case:
    groups, most, dim = tokens.shape
    valid = torch.ones(groups, most, dtype=torch.bool, device=setting.device)
    start = torch.zeros(groups, dtype=torch.long, device=setting.device)

    def error(chosen: Tensor) -> float:
        """The share of the first set's choices that float64 does not make; near ties may go either way."""
        exact = naive(tokens[:1].double(), picks, start[:1], objective)
        return float((chosen[0] & ~exact[0]).sum() / picks)

    providers = ours(setting, lambda _: farthest_point(tokens, valid, [picks] * groups, start, objective))  # type: ignore[arg-type]
    providers["pass a pick"] = Provider(lambda _: naive(tokens, picks, start, objective))
    work = Work(
        2 * groups * most * dim * picks,
        tokens.numel() * tokens.element_size() + groups * most,
        2 * groups * most**2 * dim,
    )
    return Case((groups, 0, 0, dim, picks, most), objective, picks / most, work, providers, error)


def naive(tokens: Tensor, picks: int, start: Tensor, objective: str) -> Tensor:
    """The loop over choices; each is a product of all tokens with the last one. One set at a time on a CPU."""
    parts = []
    for part, first in zip(
        *(x.split(1 if tokens.device.type == "cpu" else len(tokens)) for x in (tokens, start)), strict=True
    ):
        unit = torch.nn.functional.normalize(part if part.dtype == torch.float64 else part.float(), dim=-1)
        group, pick = torch.arange(len(part), device=part.device), first
        chosen = torch.zeros(unit.shape[:2], dtype=torch.bool, device=part.device)
        cost = torch.zeros_like(unit[..., 0]) - (torch.inf if objective == "kcenter" else 0)
        for _ in range(picks):
            chosen[group, pick] = True
            similar = torch.bmm(unit, unit[group, pick][..., None])[..., 0]
            cost = torch.maximum(cost, similar) if objective == "kcenter" else cost + similar
            cost.masked_fill_(chosen, torch.inf)
            pick = cost.argmin(1)
        parts.append(chosen)
    return torch.cat(parts)
