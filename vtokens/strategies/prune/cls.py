"""[CLS]-attention pruning: FasterVLM with one tower block, VTC-CLS with an ensemble of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.bases import ScorePruner
from vtokens.strategies.checks import check_layer
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Saliency
from vtokens.strategies.views.visuals import Visuals


@register(
    "cls",
    paper="FasterVLM, arXiv:2412.01818v1; VTC-CLS, arXiv:2412.05819",
    evidence="text",
    shown="tests/strategies/test_cls.py::test_llava_towers_keep_the_top_of_the_eager_map",
)
@dataclass(frozen=True)
class Cls(ScorePruner):
    """Keeps the patches the vision tower's [CLS] token attends to most.

    On towers without [CLS] (SigLIP, Qwen-VL) the score is the mean attention a patch receives.

    Attributes:
        keep: share or count per picture.
        layers: tower blocks whose scores are summed, negative ones from the end. None is FasterVLM: the block that
            made the features; `layers=(16, 17, 18, 19, 20, 21, 22)` is VTC-CLS on a 24-block CLIP.
    """

    layers: tuple[int, ...] | None = None

    def check(self, facts: Facts) -> None:
        if self.layers is not None:
            if not self.layers:
                raise ValueError("layers=() names no tower block: a tuple of ints such as (-2,) is allowed")
            # What asks for scores of a tower without blocks is refused with that reason, whatever it names.
            for block in self.layers if facts.tower_depth else ():
                check_layer("layers", block, facts.tower_depth, first=-facts.tower_depth)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(self.layers),))

    def score(self, visuals: Visuals) -> Tensor:
        return visuals.saliency(self.layers)
