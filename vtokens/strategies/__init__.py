"""Strategies: one file an algorithm, found by name. Called, the module lists names: `vtokens.strategies("fast*")`.

Nothing is imported until it is used: names and cards are read from the source, without torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from vtokens.core.lazy import importer

if TYPE_CHECKING:
    from vtokens.core.facts import Facts
    from vtokens.strategies.base import Strategy
    from vtokens.strategies.bases import Contraster, Evictor, Merger, ScorePruner, Steerer
    from vtokens.strategies.card import Description
    from vtokens.strategies.checks import check_layer
    from vtokens.strategies.citations import cite
    from vtokens.strategies.composition import Choice, Composition
    from vtokens.strategies.needs import Needs
    from vtokens.strategies.registry import describe, get, list_strategies, register
    from vtokens.strategies.selection import Selection
    from vtokens.strategies.signals import (
        Attention,
        Change,
        Entering,
        LayerKeys,
        Neurons,
        Relevance,
        Saliency,
        Sensitivity,
        TowerKeys,
        TowerStates,
    )
    from vtokens.strategies.spec import Spec, format_spec, parse, to_dict
    from vtokens.strategies.staged import StagedPruner
    from vtokens.strategies.subset_pruner import SubsetPruner
    from vtokens.strategies.video_pruner import VideoPruner
    from vtokens.strategies.views.frames import Frames
    from vtokens.strategies.views.keys import Keys
    from vtokens.strategies.views.pixel_grid import PixelGrid, Repeats, Resized
    from vtokens.strategies.views.states import States
    from vtokens.strategies.views.visuals import Visuals

_MODULES = {
    "Attention": "vtokens.strategies.signals",
    "Choice": "vtokens.strategies.composition",
    "Composition": "vtokens.strategies.composition",
    "Contraster": "vtokens.strategies.bases",
    "Description": "vtokens.strategies.card",
    "Change": "vtokens.strategies.signals",
    "Entering": "vtokens.strategies.signals",
    "Evictor": "vtokens.strategies.bases",
    "Facts": "vtokens.core.facts",
    "Frames": "vtokens.strategies.views.frames",
    "Keys": "vtokens.strategies.views.keys",
    "LayerKeys": "vtokens.strategies.signals",
    "Neurons": "vtokens.strategies.signals",
    "Merger": "vtokens.strategies.bases",
    "Needs": "vtokens.strategies.needs",
    "PixelGrid": "vtokens.strategies.views.pixel_grid",
    "Relevance": "vtokens.strategies.signals",
    "Repeats": "vtokens.strategies.views.pixel_grid",
    "Resized": "vtokens.strategies.views.pixel_grid",
    "Saliency": "vtokens.strategies.signals",
    "Sensitivity": "vtokens.strategies.signals",
    "ScorePruner": "vtokens.strategies.bases",
    "Selection": "vtokens.strategies.selection",
    "Spec": "vtokens.strategies.spec",
    "StagedPruner": "vtokens.strategies.staged",
    "States": "vtokens.strategies.views.states",
    "Steerer": "vtokens.strategies.bases",
    "Strategy": "vtokens.strategies.base",
    "SubsetPruner": "vtokens.strategies.subset_pruner",
    "TowerKeys": "vtokens.strategies.signals",
    "TowerStates": "vtokens.strategies.signals",
    "VideoPruner": "vtokens.strategies.video_pruner",
    "Visuals": "vtokens.strategies.views.visuals",
    "check_layer": "vtokens.strategies.checks",
    "cite": "vtokens.strategies.citations",
    "describe": "vtokens.strategies.registry",
    "format_spec": "vtokens.strategies.spec",
    "get": "vtokens.strategies.registry",
    "list_strategies": "vtokens.strategies.registry",
    "parse": "vtokens.strategies.spec",
    "register": "vtokens.strategies.registry",
    "to_dict": "vtokens.strategies.spec",
}
__all__ = [
    "Attention",
    "Change",
    "Choice",
    "Composition",
    "Contraster",
    "Description",
    "Entering",
    "Evictor",
    "Facts",
    "Frames",
    "Keys",
    "LayerKeys",
    "Merger",
    "Needs",
    "Neurons",
    "PixelGrid",
    "Relevance",
    "Repeats",
    "Resized",
    "Saliency",
    "ScorePruner",
    "Selection",
    "Sensitivity",
    "Spec",
    "StagedPruner",
    "States",
    "Steerer",
    "Strategy",
    "SubsetPruner",
    "TowerKeys",
    "TowerStates",
    "VideoPruner",
    "Visuals",
    "check_layer",
    "cite",
    "describe",
    "format_spec",
    "get",
    "list_strategies",
    "parse",
    "register",
    "to_dict",
]

if not TYPE_CHECKING:  # a checker is to miss names that are not there
    __getattr__ = importer(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Listing(ModuleType):
    """Lets `vtokens.strategies` be both this package and the function that lists names."""

    def __call__(
        self,
        pattern: str | Sequence[str] = "*",
        *,
        stage: str | None = None,
        needs: str | Sequence[str] = (),
        family: str | None = None,
    ) -> list[str]:
        from vtokens.strategies.registry import list_strategies

        return list_strategies(pattern, stage=stage, needs=needs, family=family)


sys.modules[__name__].__class__ = _Listing
