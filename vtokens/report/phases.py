"""The time of each setting by phase."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .results import Results, StrategyAtKeep

PHASES = ("encode", "select", "prefill", "decode")


@dataclass(frozen=True)
class Bar:
    """Seconds per request of a setting by phase; `prefill` is what is left of it without selecting."""

    setting: StrategyAtKeep
    seconds: dict[str, float]
    total: float
    speedup: float
    slowest: float
    fastest: float


def bars_of(results: Results) -> list[Bar]:
    """The time of every setting by phase, means over tasks."""
    found = []
    for setting in results.settings:
        cost = setting.cost()
        select = cost.select if math.isfinite(cost.select) else 0.0
        seconds = {"encode": cost.encode, "select": select, "prefill": cost.prefill - select, "decode": cost.decode}
        total = sum(value for value in seconds.values() if math.isfinite(value))
        if total > 0:
            found.append(Bar(setting, seconds, total, cost.speedup, cost.slowest, cost.fastest))
    return found
