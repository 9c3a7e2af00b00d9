"""AgilePruner: attention decides, and how alike kept tokens may be follows from how complex the picture is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.ranks import falling_rank
from vtokens.kernels import greedy_walk
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Saliency
from vtokens.strategies.views.visuals import Visuals

_STEP = 0.01
"""How much the threshold grows with each place in the order of attention, for a picture of average complexity."""


@register(
    "agilepruner",
    paper="AgilePruner, arXiv:2603.01236",
    venue="ICLR 2026",
    evidence="text",
    shown="tests/strategies/test_agilepruner.py::test_the_kept_tokens_are_those_of_a_slow_walk",
)
@dataclass(frozen=True)
class AgilePruner(Strategy):
    """Keeps salient tokens in order and drops what is too like a kept one, the more of it the more complex the picture.

    A kept token, the i-th in the order of saliency, drops those whose cosine distance from it is below
    tau_i = min(i * erank / average * 0.01, most). erank is the effective rank of the picture's features, the
    exponential of the entropy of their singular values. Where too few are left, the most salient dropped ones stay.

    Attributes:
        keep: share or count per picture.
        average: the effective rank of an average picture. 95 is LLaVA-1.5's; other towers and resolutions have another.
        most: the highest threshold; 0 leaves saliency alone to decide.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    keep: Keep = 0.25
    average: float = 95.0
    most: float = 0.25
    positions: Literal["original", "compact"] = "original"
    of: Literal["left", "original"] = "left"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("average", self.average, least=1.0)
        if not 0 <= self.most <= 2:
            raise ValueError(f"most={self.most!r} is out of range: a cosine distance from 0 to 2 is allowed")

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(),), compact=self.positions == "compact", waits="the spectrum of the features")

    def at_prompt(self, visuals: Visuals) -> Selection:
        tokens, valid, counts = visuals.tokens, visuals.valid, visuals.budgets(self.keep, self.of)
        rank = 1 + falling_rank(visuals.saliency(), valid).float()
        step = _STEP * effective_rank(tokens, valid)[:, None] / self.average
        apart = (rank * step).clamp(max=self.most)
        update = partial(_without_look_alikes, apart, float(rank.shape[1]))
        return Selection(greedy_walk(tokens, valid, counts, -rank, update), counts)


def _without_look_alikes(apart: Tensor, many: float, worth: Tensor, like: Tensor, best: Tensor, pick: Tensor) -> Tensor:
    """Worth (G, M), by which those that are too like the choice come behind all that are not, in the same order."""
    alike = (1 - like < apart.gather(1, pick)) & (worth >= -many)
    return torch.where(alike, worth - many, worth)


def effective_rank(tokens: Tensor, valid: Tensor) -> Tensor:
    """float32 (G,): exp(-sum q log q), q the singular values of a group's tokens (G, M, D) over their sum."""
    values = _singular(tokens.float().masked_fill(~valid[..., None], 0).nan_to_num())
    share = values / values.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.special.entr(share).sum(1).exp()


def _singular(tokens: Tensor) -> Tensor:
    """float32 (G, min(M, D)): singular values of float32 (G, M, D), by the products of the shorter side with itself.

    What float64 loses of their squares is below what float32 has of the values; it is 0 here. The work is less than
    half of a decomposition's.
    """
    if tokens.device.type == "mps":  # which has no float64
        return torch.linalg.svdvals(tokens)
    wide = tokens.double() if tokens.shape[1] <= tokens.shape[2] else tokens.double().transpose(1, 2)
    square = torch.linalg.eigvalsh(wide @ wide.transpose(1, 2))
    lost = wide.shape[1] * torch.finfo(square.dtype).eps * square.amax(1, keepdim=True)
    return torch.where(square > lost, square, 0.0).sqrt().float()
