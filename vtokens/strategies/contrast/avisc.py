"""AvisC: tokens that get far more attention than the others, whatever is asked, are what to move away from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.core.layout import Grouping
from vtokens.strategies.checks import check_share, check_weight
from vtokens.strategies.contrast.weighted import Weighted
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention
from vtokens.strategies.views.logits import Tokens
from vtokens.strategies.views.visuals import Visuals


@register(
    "avisc",
    paper="AvisC, arXiv:2405.17820",
    venue="ACL 2025 Findings",
    evidence="text",
    shown="tests/strategies/test_contrast.py::test_avisc_zeroes_all_but_blind_tokens",
)
@dataclass(frozen=True)
class Avisc(Weighted):
    """Contrasts the answer with that to the picture's blind tokens alone.

    Blind tokens draw more attention from the last prompt position than the mean of all visual tokens by `lam` standard
    deviations, averaged over the layers that look at the picture most: the fewest that hold a share `gamma` of all
    attention to it. The logits become (1 + alpha) l - alpha l', where l' sees no others. They are chosen once, from the
    real pass over the prompt.

    Attributes:
        alpha: weight of the contrast; 1 to 3 in the paper.
        beta: tokens less than this times as probable as the favourite are ruled out; 0 rules nothing out.
        gamma: the share of attention that the chosen layers hold.
        lam: standard deviations above the mean from which on a token is blind.
        others: "zero" keeps the other tokens as zeros, as the release does; "drop" takes them away, so that the prompt
            costs a fraction.
    """

    grouping: ClassVar[Grouping] = "sample"
    gamma: float = 0.5
    lam: float = 1.0
    others: Literal["zero", "drop"] = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("gamma", self.gamma)
        check_weight("lam", self.lam)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=[Attention(layer) for layer in facts.attending])

    def negative(self, facts: Facts) -> Tokens:
        return Tokens(partial(self.blind, layers=facts.attending), blank=self.others == "zero")

    def blind(self, visuals: Visuals, layers: Sequence[int]) -> Selection:
        """The blind tokens of each sample, by the attention of some layers."""
        attention = torch.stack([visuals.attention(layer) for layer in layers])
        return Selection(blind_tokens(attention * visuals.valid, visuals.valid, self.gamma, self.lam))


def blind_tokens(attention: Tensor, valid: Tensor, gamma: float, lam: float) -> Tensor:
    """Which tokens are blind.

    Args:
        attention: float32 (L, G, M), what each token gets in each layer, 0 where not `valid`.
        valid: bool (G, M).
        gamma, lam: as in `Avisc`.

    Returns:
        bool (G, M).
    """
    mass = attention.sum(-1)
    share, order = (mass / mass.sum(0).clamp(min=1e-30)).sort(stable=True, dim=0, descending=True)
    # As many layers as stay below the share, and the one that reaches it.
    looking = share.cumsum(0) < gamma
    looking = torch.cat([torch.ones_like(looking[:1]), looking[:-1]])
    looking = torch.zeros_like(looking).scatter(0, order, looking)
    mean = (attention * looking[..., None]).sum(0) / looking.sum(0).clamp(min=1)[:, None]
    count = valid.sum(1, keepdim=True)
    centre = mean.sum(1, keepdim=True) / count.clamp(min=1)
    spread = ((mean - centre).square() * valid).sum(1, keepdim=True) / (count - 1).clamp(min=1)
    return (mean >= centre + lam * spread.sqrt()) & valid
