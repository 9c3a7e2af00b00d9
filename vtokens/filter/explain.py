"""Which signals spoke for or against a mention, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtokens.filter.calibrators.calibrator import Calibrator
from vtokens.filter.judged import Judged
from vtokens.filter.report import ResponseReport
from vtokens.filter.signals.registry import get_signals, list_signals

_LEAST = 0.05  # log-odds below which a signal said nothing


@dataclass(frozen=True)
class Reason:
    """What one signal said.

    Attributes:
        signal: its name.
        weight: by how much it moved the log-odds that the mention is unsupported, beside a mention like the middle one
            of those the calibrator was fitted on; above 0 it spoke for a hallucination.
        words: the same in words.
    """

    signal: str
    weight: float
    words: str


@dataclass(frozen=True)
class Explanation:
    """The reasons of one mention, the weightiest first."""

    judged: Judged
    reasons: tuple[Reason, ...]

    def __str__(self) -> str:
        against = [f"{one.words} ({one.weight:+.1f})" for one in self.reasons if one.weight > 0][:3]
        supports = [f"{one.words} ({one.weight:+.1f})" for one in self.reasons if one.weight < 0][:3]
        said = [f"speaks against it: {'; '.join(against)}"] if against else []
        said += [f"speaks for it: {'; '.join(supports)}"] if supports else []
        more = ". ".join(one[0].upper() + one[1:] for one in said) or "No signal says more than for most mentions"
        return f"{self.judged.text!r}, {self.judged.p:.2f}: {more}"


def explain(report: ResponseReport, calibrator: Calibrator | None) -> list[Explanation]:
    """The reasons of each mention of a report.

    A signal is put at its median over what the calibrator was fitted on, and the score is asked for again: by how much
    it changes is what the signal said. What two signals only say together is counted for both.

    Raises:
        ValueError: no calibrator, whose score is one number and nothing weighs it; or one saved before medians were.
    """
    if not report.mentions:
        return []
    if calibrator is None or not report.calibrated:
        raise ValueError(
            "without a calibrator nothing weighs the signals: a score is the chance that the model would have written "
            "something else. Fit one (HallucinationFilter.fit, vtokens filter fit)"
        )
    if not calibrator.middle:
        raise ValueError("this calibrator was saved before it was noted what is usual: fit it again to explain")
    columns = np.array([[judged.signals[name] for name in calibrator.names] for judged in report.mentions], dtype=float)
    before, of = calibrator.estimator.score(columns), [name.split(".")[0] for name in calibrator.names]
    weights: dict[str, Any] = {}
    for signal in dict.fromkeys(of):
        changed = columns.copy()
        here = np.array([name == signal for name in of])
        changed[:, here] = np.array(calibrator.middle)[here]
        weights[signal] = before - calibrator.estimator.score(changed)
    return [
        Explanation(judged, _reasons({name: float(found[i]) for name, found in weights.items()}))
        for i, judged in enumerate(report.mentions)
    ]


def _reasons(weights: dict[str, float]) -> tuple[Reason, ...]:
    found = [Reason(name, weight, _words(name, weight)) for name, weight in weights.items() if abs(weight) >= _LEAST]
    return tuple(sorted(found, key=lambda one: -abs(one.weight)))


def _words(name: str, weight: float) -> str:
    known: Sequence[str] = list_signals()
    says = get_signals([name])[0].says if name in known else ()
    return says[weight < 0] if says else f"{name} is {'high' if weight > 0 else 'low'}"
