"""MMTok: tokens that cover the question and the picture at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vtokens.core.budget import Keep
from vtokens.core.columns import columns_of
from vtokens.core.facts import Facts
from vtokens.kernels import coverage
from vtokens.strategies.checks import check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import TowerStates
from vtokens.strategies.subset_pruner import SubsetPruner
from vtokens.strategies.views.visuals import Visuals


@register(
    "mmtok",
    paper="MMTok, arXiv:2508.18264",
    venue="ICLR 2026",
    evidence="stand-in",
    shown="tests/strategies/test_mmtok.py::test_the_worked_example",
    given=("features=tower", "text", "tests/strategies/test_mmtok.py::test_tokens_are_compared_as_the_tower_has_them"),
)
@dataclass(frozen=True)
class MMTok(SubsetPruner):
    """Keeps tokens that cover the words of the question and the other tokens of the picture: maximum coverage.

    Each word spreads softmax(cosine / text_temperature) over the picture's tokens, and so does each token of the
    picture, at its own temperature and times `alpha`; the means over words and over tokens add up. Greedily, the token
    is added that raises most the sum of the largest shares that kept tokens have.

    Attributes:
        keep: share or count per picture.
        alpha: how much the picture's own tokens count beside the words; 0 is the words alone.
        text_temperature, visual_temperature: of the softmax of words and of tokens.
        features: where the tokens of the picture are compared with each other: by what the vision "tower" made of them,
            before the projector, as in the paper, or "projected", where they are compared with the words.
    """

    keep: Keep = 0.1
    alpha: float = 0.5
    text_temperature: float = 0.02
    visual_temperature: float = 0.2
    features: Literal["tower", "projected"] = "projected"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("alpha", self.alpha)
        for name in ("text_temperature", "visual_temperature"):
            check_weight(name, getattr(self, name), 1e-6)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(TowerStates(),) if self.features == "tower" else ())

    def choose(self, visuals: Visuals, counts: Sequence[int]) -> Tensor:
        layout, units = visuals.layout, normalize(visuals.tokens.float(), dim=-1)
        where, real = columns_of(visuals.text(), max(1, *layout.outside()))
        rows = torch.arange(len(where), device=where.device)[:, None]
        words = normalize(visuals.hidden[rows, where].float(), dim=-1)
        owners = [layout.owner[picture] for picture in visuals.owners]
        alike = normalize(visuals.tower_states(), dim=-1) if self.features == "tower" else units

        def covers(group: int, size: int) -> Tensor:
            own, among, row = units[group, :size], alike[group, :size], owners[group]
            asked = (words[row] @ own.T / self.text_temperature).softmax(1) * real[row, :, None]
            seen = (among @ among.T / self.visual_temperature).softmax(1) * (self.alpha / size)
            return torch.cat([asked / real[row].sum().clamp(min=1), seen]).T.contiguous()

        return coverage(covers, visuals.counts, counts, torch.ones_like(visuals.valid, dtype=torch.float32))
