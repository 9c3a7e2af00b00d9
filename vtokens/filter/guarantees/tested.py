"""Thresholds whose risk is bounded by testing each of them: for ratios, and for shares with a chance of failing."""

from __future__ import annotations

import math

import numpy as np

from vtokens.filter.guarantees.ltt import betting, fixed_sequence
from vtokens.filter.guarantees.responses import Array, Pairs, certificate
from vtokens.filter.guarantees.risk import Certificate, Risk
from vtokens.filter.guarantees.setting import CalibrationSetting

_GRID = 200  # thresholds tried
_TRAINING = 0.25  # share of the responses that chooses them if no others are given


def tested(
    rows: Pairs,
    risk: Risk,
    training: Pairs | None,
    setting: CalibrationSetting | None,
    group: str,
    seed: int,
) -> Certificate:
    """The largest threshold up to which each one tried is shown to keep the guarantee."""
    assert risk.delta is not None
    order = np.random.default_rng(seed).permutation(len(rows))
    if training is None:
        cut = math.ceil(_TRAINING * len(rows))
        learnt, rows = [rows[i] for i in order[:cut]], [rows[i] for i in order[cut:]]
    else:
        learnt, rows = training, [rows[i] for i in order]
    if not rows:
        reason = "too few calibration responses: it takes at least 2, one to choose thresholds on and one to test them"
        return certificate(learnt, risk, None, setting, group, reason, _cap(learnt, risk))
    seen = np.concatenate([s for s, _ in learnt])
    grid = np.zeros(0)
    if len(seen):
        grid = np.append(np.unique(np.quantile(seen, np.linspace(0, 1, _GRID), method="lower")), math.inf)
    cap = _cap([*learnt, *rows], risk)
    high = (1 - risk.alpha) * (cap or 1)
    before = _excess(learnt, grid, risk)
    spread = np.sqrt((before**2).mean(axis=0))
    # Where little is kept nothing can be shown, where much is kept it is not true: begin where it is plainest.
    start = int(np.argmax(-before.mean(axis=0) / np.where(spread > 0, spread, math.inf))) if len(seen) else 0
    safe = fixed_sequence(betting(_excess(rows, grid, risk)[:, start:], high), risk.delta)
    if not safe:
        reason = "no threshold could be shown to keep the guarantee on so many calibration responses"
        return certificate(rows, risk, None, setting, group, reason, cap)
    return certificate(rows, risk, float(grid[start + safe[-1]]), setting, group, cap=cap)


def _cap(rows: Pairs, risk: Risk) -> int | None:
    """The most mentions of a response, where the bound depends on it."""
    return max(len(h) for _, h in rows) if risk.kind == "ratio" else None


def _excess(rows: Pairs, grid: Array, risk: Risk) -> Array:
    """Excess loss Z of (responses, thresholds), of which E Z >= 0 is tested: unsupported mentions kept, less alpha."""
    found = np.zeros((len(rows), len(grid)))
    for row, (s, h) in enumerate(rows):
        kept = s[:, None] <= grid[None, :]
        wrong = (kept & h[:, None]).sum(axis=0)
        if risk.kind == "ratio":
            found[row] = wrong - risk.alpha * kept.sum(axis=0)
        else:
            found[row] = wrong / max(1, len(h)) - risk.alpha
    return found
