"""VAF: in middle layers text looks at the picture more, and at the system prompt less."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layers, check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.heads import Heads


@register(
    "vaf",
    paper="ClearSight (VAF), arXiv:2503.13107",
    venue="CVPR 2025",
    evidence="text",
    shown="tests/strategies/test_rescaled.py::test_generation_is_that_of_edited_scores",
)
@dataclass(frozen=True)
class Vaf(Strategy):
    """Multiplies what text and generated tokens think of visual tokens, and of the text before the picture.

    In the middle layers, where pictures enter the text, scores of visual keys are multiplied by `visual` and those of
    keys before the first visual token by `system`, before the softmax, in rows behind the picture. A negative score
    is multiplied too, and so falls.

    Attributes:
        visual: the factor on scores of visual tokens; the release runs 1.15, 1 leaves them alone.
        system: the factor on scores of the text before them; the release runs 0.95.
        layers: decoder layers that take part; None takes those of the middle, 9 to 14 of 32.
    """

    visual: float = 1.15
    system: float = 0.95
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("visual", self.visual)
        check_weight("system", self.system)

    def needs(self, facts: Facts) -> Needs:
        if self.visual == self.system == 1:
            return Needs(once=True)
        where = facts.scaled(9, 14) if self.layers is None else check_layers("layers", self.layers, facts.depth)
        return Needs(attend=where, weighs=True, minds_sizes=True, once=True)

    def at_attend(self, heads: Heads) -> None:
        before = torch.where(heads.leading, self.system, 1.0)
        heads.rescale(heads.answers, factor=torch.where(heads.visual, self.visual, before))
