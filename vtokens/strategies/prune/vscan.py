"""VScan: local and global scans before the decoder, and a cut half-way through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vtokens.core.budget import Keep
from vtokens.strategies.composition import Composition
from vtokens.strategies.registry import register


@register(
    "vscan",
    paper="VScan, arXiv:2505.22654",
    venue="TMLR 2026",
    evidence="stand-in",
    shown="tests/strategies/test_scans.py::test_vscan_is_the_schedule_of_its_release",
)
@dataclass(frozen=True)
class VScan(Composition):
    """Composes scans of the vision tower, which merge what they do not keep, with a cut at half the decoder's depth.

    Attributes:
        keep: share or count per picture that the scans leave: 1/6, 96 of 576, and 32 later are the release's 64 tokens
            a layer.
        late: the share of these that goes on from half of the depth, by what the last position of the prompt attends
            to.
        layer: where, as a share of the depth (16 of 32; 14 of Qwen2.5-VL's 28).
    """

    composes: ClassVar[str] = "scans(keep={keep})+pyramiddrop(keep={late}, layers=({layer},), before=())"
    acts: ClassVar[tuple[str, ...]] = ("prompt", "layer")
    keep: Keep = 1 / 6
    late: float = 1 / 3
    layer: int | float = 0.5
