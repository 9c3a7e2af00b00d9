"""DUET-VLM: VisionZip before the decoder, PyramidDrop in its middle, and no visual tokens behind that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vtokens.core.budget import Keep
from vtokens.strategies.composition import Composition
from vtokens.strategies.registry import register


@register(
    "duet",
    paper="DUET-VLM, arXiv:2602.18846",
    venue="CVPR 2026",
    evidence="stand-in",
    shown="tests/strategies/test_compositions.py::test_duet_is_the_schedule_of_its_release",
)
@dataclass(frozen=True)
class Duet(Composition):
    """Composes VisionZip before the decoder with PyramidDrop at half of its depth, and no visual tokens from 3/4 on.

    Attributes:
        keep: share or count per picture that VisionZip leaves: 0.533, 0.351 and 0.177 are the release's 192, 128 and 64
            tokens a layer.
        contextual: the share of these that are contextual: 0.0228, 0.158 and 0.294 there.
        late: the share of these that PyramidDrop leaves.
    """

    composes: ClassVar[str] = (
        "visionzip(keep={keep}, contextual={contextual})"
        "+pyramiddrop(keep={late}, layers=(0.5,), before=())+vtw(layer=0.75)"
    )
    acts: ClassVar[tuple[str, ...]] = ("prompt", "layer")
    keep: Keep = 0.533
    contextual: float = 0.0228
    late: float = 0.5
