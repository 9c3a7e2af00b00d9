"""FADE: MLPs of some layers say less, as they are where a language prior comes in."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.bases import Steerer
from vtokens.strategies.checks import check_layers, check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.states import States


@register(
    "fade",
    paper="FADE, arXiv:2606.29431",
    evidence="stand-in",
    shown="tests/strategies/test_fade.py::test_it_is_a_scaled_mlp",
)
@dataclass(frozen=True)
class Fade(Steerer):
    """Damps what MLPs of critical layers put out, so that what attention has gathered of the picture weighs more.

    What an MLP adds to the states, x, becomes (1 - weight) x, at all positions and in every pass.

    Attributes:
        weight: how much of it is taken away; ours, the paper's could not be read.
        layers: the critical layers, negative ones from the end; None is the second half of the decoder, which is ours:
            the paper searches for them.
    """

    place = "mlp"
    weight: float = 0.1
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("weight", self.weight)

    def needs(self, facts: Facts) -> Needs:
        named = range(facts.depth // 2, facts.depth) if self.layers is None else self.layers
        where = check_layers("layers", named, facts.depth, first=-facts.depth)
        return Needs(mlp=where if self.weight else (), once=True)

    def steer(self, states: States) -> Tensor:
        return -self.weight * states.hidden
