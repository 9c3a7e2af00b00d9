"""Information Horizon: a ranking early in the decoder, and chance late in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vtokens.core.budget import Keep
from vtokens.strategies.composition import Composition
from vtokens.strategies.registry import register


@register(
    "information_horizon",
    paper="Information Horizon, arXiv:2512.07580",
    venue="CVPR 2026",
    evidence="text",
    shown="tests/strategies/test_compositions.py::test_information_horizon_is_what_its_release_runs",
)
@dataclass(frozen=True)
class InformationHorizon(Composition):
    """Composes a ranking before or early in the decoder with a random choice past the depth where rankings help.

    Attributes:
        keep: share or count per picture that the ranking leaves.
        ranked: the strategy that ranks, by name; the paper has DART and DivPrune.
        late: the share of these that stays past the horizon.
        horizon: where that begins, as a share of the depth (20 of 32); deeper for larger models, and for reading.
        seed: of the random choice.
    """

    composes: ClassVar[str] = "{ranked}(keep={keep})+late_random(keep={late}, layers=({horizon},), seed={seed})"
    acts: ClassVar[tuple[str, ...]] = ("layer",)
    keep: Keep = 0.4375
    ranked: str = "dart"
    late: float = 0.15
    horizon: int | float = 0.625
    seed: int = 0
