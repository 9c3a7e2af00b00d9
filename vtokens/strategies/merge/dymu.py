"""DyMU: tokens are merged inside the vision tower, and unmerged virtually inside the language model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

from vtokens.core.errors import unknown
from vtokens.core.facts import Facts
from vtokens.kernels import Merged, match, merge, unmerged_first
from vtokens.strategies.bases import Merger
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.patches import Patches
from vtokens.tables import thresholds as tables


@register(
    "dymu",
    paper="DyMU, arXiv:2504.17040",
    evidence="text",
    shown="tests/engine/test_merging.py::test_features_equal_those_of_equal_copies",
)
@dataclass(frozen=True)
class Dymu(Merger):
    """Merges similar tokens inside the vision tower; the language model keeps one of each but attends to all.

    In each tower block, behind its attention, every other token is merged into the most similar one of the rest if the
    cosine of their mean keys is above the block's threshold, so that simple pictures leave fewer tokens. Inside the
    language model a merged token stands at all of its positions (virtual unmerging), but is stored and computed once.

    Attributes:
        thresholds: JSON file that `vtokens calibrate dymu` wrote, or the numbers themselves, one a block; None takes
            the shipped ones of the tower. A threshold of 1 or more merges nothing.
        target: which of those in the file: the share of patches left on average, or "low", "mid" or "high" of the paper
            (0.15, 0.34, 0.68). None takes the only one, or "mid".
        unmerge: False leaves each merged token at its first position only.
        order: by which every other token is the one that may be merged away: "raster" keeps that of the patches;
            "release" puts, after each block, tokens that could have been and were not in front of all others, and goes
            with thresholds that were calibrated so.
    """

    thresholds: str | tuple[float, ...] | None = None
    target: str | float | None = None
    unmerge: bool = True
    order: Literal["raster", "release"] = "raster"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target is not None:
            if isinstance(self.target, str) and self.target not in tables.NAMED:
                raise unknown("target", self.target, tables.NAMED)
            if not isinstance(self.target, str) and not 0 < self.target < 1:
                raise ValueError(f"target={self.target!r} is out of range: a share of the patches in (0, 1)")
            if isinstance(self.thresholds, tuple):
                raise ValueError("target chooses thresholds, which are given: leave one of the two out")

    def check(self, facts: Facts) -> None:
        self.prepare(facts)
        if not isinstance(self.thresholds, tuple) and self._table(facts).in_doubt(facts):
            warnings.warn(
                f"whether the thresholds are those of this vision tower is not known: the shape is {facts.tower!r}, "
                f"but weights could not be read to compare. Get its own with {tables.HOW}, or give them as numbers",
                stacklevel=2,
            )

    def prepare(self, facts: Facts) -> tuple[float, ...]:
        found = self.thresholds if isinstance(self.thresholds, tuple) else self._table(facts).at(self._share).thresholds
        most = facts.merge_blocks
        if most is not None and len(found) > most:
            raise ValueError(
                f"{len(found)} thresholds for the {most} tower blocks up to the one that makes the features: "
                "one a block is allowed, the first blocks first"
            )
        return found

    @property
    def _share(self) -> float | None:
        return tables.NAMED[self.target] if isinstance(self.target, str) else self.target

    def _table(self, facts: Facts) -> tables.Table:
        if self.thresholds is None:
            table = tables.known(facts)
            if table is None:
                raise ValueError(
                    f"no thresholds ship for the vision tower {facts.tower!r} with these weights: get them with "
                    f"{tables.HOW}, then use 'dymu(thresholds=\"thresholds.json\")'"
                )
            return table
        assert isinstance(self.thresholds, str)
        table = tables.read(self.thresholds)
        if not table.fits(facts):
            raise ValueError(
                f"{self.thresholds!r} holds thresholds of the vision tower {table.tower!r}"
                + (", but with other weights than this one's" if table.tower == facts.tower else "")
                + f"; this one is {facts.tower!r}: get its own with {tables.HOW}"
            )
        return table

    @property
    def unmerged(self) -> bool:
        return self.unmerge

    def needs(self, facts: Facts) -> Needs:
        return Needs(encode=[block for block, threshold in enumerate(self.prepare(facts)) if threshold < 1])

    def at_encode(self, patches: Patches) -> Merged:
        edges = match(patches.metric, patches.valid, patches.protect)
        merged = merge(patches.hidden, patches.size, patches.valid, edges, patches.prepared[patches.block])
        return unmerged_first(merged, edges) if self.order == "release" else merged
