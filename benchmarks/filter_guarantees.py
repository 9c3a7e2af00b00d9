"""Do thresholds keep what they guarantee? Over many splits of held-out responses, and on responses of another kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vtokens.filter.guarantees.conformal import threshold
from vtokens.filter.guarantees.responses import realised
from vtokens.filter.guarantees.risk import Risk

RISKS = (
    *(Risk("any", alpha, delta) for alpha in (0.1, 0.02) for delta in (None, 0.1)),
    Risk("share", 0.02, None),
    Risk("ratio", 0.02, 0.1),
)
Rows = Sequence[Sequence[Any]]


def splits(scores: Rows, labels: Rows, risk: Risk, number: int) -> dict[str, Any]:
    """Calibrate on a half of the responses and count on the other, `number` times with halves drawn by lot.

    `broken` is the share of splits whose threshold has more than alpha over all responses, which is what a guarantee
    with `delta` is about; one without is about the mean of `risk`. `kept` is the mean share of supported mentions kept
    in the other half, where there is a threshold.
    """
    risks, kept, broken = [], [], 0
    right = [(np.asarray(s)[~np.asarray(h, dtype=bool)]) for s, h in zip(scores, labels, strict=True)]
    for seed in range(number):
        order = np.random.default_rng(seed).permutation(len(scores))
        half, rest = order[: len(order) // 2], order[len(order) // 2 :]
        found = threshold([scores[i] for i in half], [labels[i] for i in half], risk, seed=seed)
        risks.append(realised([scores[i] for i in rest], [labels[i] for i in rest], risk.kind, found.threshold))
        broken += realised(scores, labels, risk.kind, found.threshold) > risk.alpha
        if not found.infeasible:
            kept.append(float(found.keeps(np.concatenate([right[i] for i in rest])).mean()))
    return {
        "kind": risk.kind,
        "alpha": risk.alpha,
        "delta": risk.delta,
        "splits": number,
        "calibration_responses": len(scores) // 2,
        "unfiltered": _six(realised(scores, labels, risk.kind, np.inf)),
        "risk": _six(np.mean(risks)),
        "standard_error": _six(np.std(risks) / np.sqrt(number)),
        "broken": broken / number,
        "feasible": len(kept) / number,
        "kept": _six(np.mean(kept)) if kept else None,
    }


def carried_over(
    calibration: tuple[Rows, Rows], others: dict[str, tuple[Rows, Rows]], risk: Risk
) -> list[dict[str, Any]]:
    """One threshold, from the calibration responses, on every other set: what it guarantees and what happens."""
    found = threshold(*calibration, risk)
    rows = []
    for name, (scores, labels) in others.items():
        right = np.concatenate([np.asarray(s)[~np.asarray(h, dtype=bool)] for s, h in zip(scores, labels, strict=True)])
        rows.append(
            {
                "set": name,
                "kind": risk.kind,
                "alpha": risk.alpha,
                "delta": risk.delta,
                "threshold": None if found.threshold is None else str(found.threshold),
                "unfiltered": _six(realised(scores, labels, risk.kind, np.inf)),
                "risk": _six(realised(scores, labels, risk.kind, found.threshold)),
                "kept": _six(found.keeps(right).mean()),
            }
        )
    return rows


def _six(value: Any) -> float:
    return float(f"{value:.6g}")
