"""From which similarity on a vision tower's tokens are merged, tower by tower."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtokens.core.facts import Facts
from vtokens.core.moved import renamed
from vtokens.core.writing import write_json
from vtokens.tables import base

SCHEMA = 1
HOW = "`vtokens calibrate dymu MODEL --images FOLDER --out thresholds.json`"
NAMED = {"low": 0.15, "mid": 0.34, "high": 0.68}
"""Shares of a picture's patches that are left: 89, 195 and 394 of 576 in DyMU's presets."""


@dataclass(frozen=True)
class TargetThresholds:
    """Thresholds for one target.

    Attributes:
        target: the share of patches that was to be left, on average over pictures.
        left: the share that was left on the pictures measured.
        rates: the share of a picture's patches that each block, or round, was to merge away, on average.
        thresholds: cosine above which it does.
    """

    target: float
    left: float
    rates: tuple[float, ...]
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class Table:
    """What was measured on one tower.

    Attributes:
        tower, sample: the tower, as in `Facts`.
        source: which pictures, how many.
        settings: one for each target.
    """

    tower: str
    sample: tuple[float, ...]
    source: str
    settings: tuple[TargetThresholds, ...]

    def fits(self, facts: Facts) -> bool:
        """Whether this is the model's tower; half precision rounds the sample, so it has to be close, not equal."""
        if self.tower != facts.tower:
            return False
        pairs = zip(self.sample, facts.tower_sample, strict=False)
        return all(math.isclose(a, b, rel_tol=2**-6, abs_tol=1e-6) for a, b in pairs)

    def in_doubt(self, facts: Facts) -> bool:
        """Whether the sample of one of the two is not known, so that only the tower's shape could be compared."""
        return not (self.sample and facts.tower_sample)

    def at(self, target: float | None) -> TargetThresholds:
        """The setting for a target; None is the only one there is, or "mid".

        Raises:
            ValueError: there is none; names those there are.
        """
        if target is None:
            target = self.settings[0].target if len(self.settings) == 1 else NAMED["mid"]
        for setting in self.settings:
            if abs(setting.target - target) < 5e-3:
                return setting
        there = ", ".join(f"{setting.target:g}" for setting in self.settings)
        raise ValueError(f"there are thresholds for the targets {there}, not for {target:g}: get them with {HOW}")

    def save(self, path: str | Path) -> None:
        """Write a file that `read` reads."""
        write_json(path, {"schema": SCHEMA, **asdict(self)})


def read(path: str | Path) -> Table:
    """Thresholds from a JSON file.

    Raises:
        ImportError: pydantic is missing.
        ValueError: no such file, or not what `vtokens calibrate dymu` writes.
    """
    return base.read(path, "thresholds", SCHEMA, _parse, "thresholds", HOW)


def known(facts: Facts) -> Table | None:
    """The shipped thresholds of a model's tower."""
    return next((table for table in _shipped() if table.fits(facts)), None)


@cache
def _shipped() -> tuple[Table, ...]:
    return base.shipped(__name__, _parse)


def _parse(data: dict[str, Any]) -> Table:
    settings = tuple(
        TargetThresholds(
            float(s["target"]), float(s["left"]), tuple(map(float, s["rates"])), tuple(map(float, s["thresholds"]))
        )
        for s in data["settings"]
    )
    return Table(data["tower"], tuple(map(float, data["sample"])), data["source"], settings)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return renamed(__name__, name)
