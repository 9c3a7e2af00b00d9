"""Calibration responses as arrays: checked, their risk at a threshold, and what a certificate says of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vtokens.filter.guarantees.risk import Certificate, Risk
from vtokens.filter.guarantees.setting import CalibrationSetting

Array = np.ndarray[Any, np.dtype[Any]]
Rows = Sequence[ArrayLike]
Pairs = list[tuple[Array, Array]]


def checked(scores: Rows, labels: Rows) -> Pairs:
    """Pairs of scores (mentions,) and labels (mentions,), one a response.

    Raises:
        ValueError: no responses, scores and labels that do not match, or scores that are NaN.
    """
    if len(scores) != len(labels) or not len(scores):
        raise ValueError(f"need scores and labels of as many responses, at least one, got {len(scores)}, {len(labels)}")
    rows = []
    for number, (score, label) in enumerate(zip(scores, labels, strict=True)):
        s, h = np.asarray(score, dtype=float), np.asarray(label, dtype=bool)
        if s.shape != h.shape or s.ndim != 1:
            raise ValueError(f"response {number} needs one score and one label a mention, got {s.shape} and {h.shape}")
        if np.isnan(s).any():
            raise ValueError(f"response {number} has {int(np.isnan(s).sum())} scores that are NaN among {len(s)}")
        rows.append((s, h))
    return rows


def realised(scores: Rows, labels: Rows, kind: str, threshold: float | None) -> float:
    """The risk of a kind on these responses if mentions that score at most `threshold` are kept (None keeps none)."""
    rows = checked(scores, labels)
    kept = [(h[s <= threshold] if threshold is not None else h[:0], len(h)) for s, h in rows]
    if kind == "any":
        return float(np.mean([h.any() for h, _ in kept]))
    if kind == "share":
        return float(np.mean([h.sum() / max(1, m) for h, m in kept]))
    total = sum(len(h) for h, _ in kept)
    return float(sum(h.sum() for h, _ in kept) / total) if total else 0.0


def certificate(
    rows: Pairs,
    risk: Risk,
    found: float | None,
    setting: CalibrationSetting | None,
    group: str,
    reason: str = "",
    cap: int | None = None,
) -> Certificate:
    """The certificate of a threshold, or of none for a `reason`, with what it does to the calibration responses."""
    scores, labels = [s for s, _ in rows], [h for _, h in rows]
    everything, wrong = np.concatenate(scores), np.concatenate(labels)
    if found is not None and len(everything) and not (everything <= found).any():
        found, reason = None, "only a threshold that keeps none of the calibration mentions keeps the guarantee"
    right = everything[~wrong]
    return Certificate(
        risk,
        found,
        reason,
        len(rows),
        len(everything),
        int(wrong.sum()),
        None if found is None else realised(scores, labels, risk.kind, found),
        realised(scores, labels, risk.kind, math.inf),
        float((right <= found).mean()) if found is not None and len(right) else None,
        cap,
        group,
        setting,
    )
