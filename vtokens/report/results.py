"""The results of a sweep: settings (a strategy at one keep) with their scores and costs over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BASELINE = "none"
NAN = float("nan")
MEANS = ("kept_tokens", "visual_tokens", "flops_ratio", "kv_ratio", "encode", "select", "prefill", "decode")


@dataclass(frozen=True)
class Score:
    """One metric of one setting on one task, over seeds; NaN where there is no figure."""

    value: float
    low: float
    high: float
    n: int
    seeds: int
    p_value: float


@dataclass(frozen=True)
class Cost:
    """Means over the seeds of one setting on one task; seconds per request, NaN where there is no figure.

    `speedup` is the geometric mean of the seeds' first-token speed-ups, which range from `slowest` to `fastest`.
    `select` is a part of `prefill`.
    """

    kept_tokens: float = NAN
    visual_tokens: float = NAN
    flops_ratio: float = NAN
    kv_ratio: float = NAN
    encode: float = NAN
    select: float = NAN
    prefill: float = NAN
    decode: float = NAN
    speedup: float = NAN
    slowest: float = NAN
    fastest: float = NAN


@dataclass(frozen=True)
class StrategyAtKeep:
    """A strategy at one keep.

    Attributes:
        name, keep: as the sweep names them; keep is None for `none` and for strategies without.
        specs: every spec its cells ran with.
        scores: by task and metric.
        costs: by task.
    """

    name: str
    keep: float | int | None
    specs: tuple[str, ...] = ()
    scores: dict[tuple[str, str], Score] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Tells settings apart; a keep of 1 (a count) and of 1.0 (a share) differ."""
        return key(self.name, self.keep)

    @property
    def label(self) -> str:
        """The name with the keep, such as `fastv 0.25`."""
        return self.name if self.keep is None else f"{self.name} {self.keep}"

    def cost(self) -> Cost:
        """Means over the tasks; the mean of a speed-up is geometric."""
        parts = list(self.costs.values())
        plain = {name: mean(getattr(part, name) for part in parts) for name in MEANS}
        ups = {name: geometric(getattr(part, name) for part in parts) for name in ("speedup", "slowest", "fastest")}
        return Cost(**plain, **ups)


@dataclass(frozen=True)
class Metric:
    """A metric of a task: `better` is 1 if more is better, -1 if less is, 0 if neither; `share` if all are in 0..1."""

    task: str
    name: str
    better: int
    share: bool


@dataclass(frozen=True)
class Results:
    """A finished sweep.

    Attributes:
        folder: where it was read from.
        manifest: as written by the sweep.
        settings: `none` first, then in the manifest's order, large keeps first.
        headlines: the metric of each task that charts and comparisons use.
        metrics: all of them.
        cells: the setting's key and the seed of every cell.
        notes: what could not be read, in sentences.
    """

    folder: Path
    manifest: dict[str, Any]
    settings: tuple[StrategyAtKeep, ...]
    headlines: tuple[Metric, ...]
    metrics: tuple[Metric, ...]
    cells: dict[str, tuple[str, int]]
    notes: tuple[str, ...]

    @property
    def baseline(self) -> StrategyAtKeep | None:
        """The unpruned setting, if it is in the sweep."""
        return next((setting for setting in self.settings if setting.name == BASELINE), None)

    @property
    def names(self) -> list[str]:
        """Strategies, in the order of the settings."""
        return list(dict.fromkeys(setting.name for setting in self.settings))


def key(name: str, keep: float | int | None) -> str:
    """The key of a setting."""
    return name if keep is None else f"{name}@{keep}"


def order(keep: float | int | None) -> tuple[bool, bool, float]:
    """Sorts keeps: shares, then counts, each from large to small, and what has none last."""
    return keep is None, isinstance(keep, int), -(keep or 0)


def number(value: Any) -> float:
    """A float; NaN for null, text and anything else that is none."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else NAN


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean of what is finite; NaN if nothing is."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else NAN


def geometric(values: Iterable[float]) -> float:
    """Geometric mean of what is finite and positive; NaN if nothing is."""
    logs = mean(math.log(value) if value > 0 else NAN for value in values)
    return math.exp(logs) if math.isfinite(logs) else NAN
