"""Thresholds whose risk is bounded without assumptions about the scores: conformal risk control and its PAC form.

Scores are high where a mention looks hallucinated; mentions that score at most the threshold are kept. The scores must
come from something fitted on other images.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom

from vtokens.filter.guarantees.responses import Array, Pairs, Rows, certificate, checked
from vtokens.filter.guarantees.risk import Certificate, Risk
from vtokens.filter.guarantees.setting import CalibrationSetting
from vtokens.filter.guarantees.tested import tested


def threshold(
    scores: Rows,
    labels: Rows,
    risk: Risk,
    *,
    training: tuple[Rows, Rows] | None = None,
    setting: CalibrationSetting | None = None,
    group: str = "",
    seed: int = 0,
) -> Certificate:
    """The largest threshold that keeps the guarantee.

    Without `delta`, "any" and "share" are bounded by conformal risk control (Angelopoulos et al., ICLR 2024): the
    threshold is the largest whose mean loss over n responses, counted with one more response of loss 1, is at most
    alpha. With `delta`, "any" takes the exact binomial tail, "share" and "ratio" the betting test of `ltt`.

    Args:
        scores: one array a response, one number a mention; a response without mentions has an empty one.
        labels: the same for labels, True where the mention is unsupported.
        training: (scores, labels) of other responses, on which the thresholds to be tested are chosen for "share" and
            "ratio" with `delta`. If None, a quarter of the responses is set aside for it, drawn with `seed`.
        setting: what all responses share; goes into the certificate.
        group: names a group of mentions, in the certificate.

    Raises:
        ValueError: no responses, scores and labels that do not match, or scores that are NaN.
    """
    rows = checked(scores, labels)
    if risk.kind == "ratio" or (risk.kind == "share" and risk.delta is not None):
        return tested(rows, risk, None if training is None else checked(*training), setting, group, seed)
    at, weight = _losses(rows, risk.kind)
    order = np.argsort(at, kind="stable")
    total, n = np.cumsum(weight[order]), len(rows)
    if risk.delta is None:
        budget = risk.alpha * (n + 1) - 1
        short = f"it takes at least {math.ceil(1 / risk.alpha - 1 - 1e-9)} responses"
    else:
        budget = float(binom.ppf(risk.delta, n, risk.alpha))
        budget -= binom.cdf(budget, n, risk.alpha) > risk.delta
        short = f"it takes at least {math.ceil(math.log(risk.delta) / math.log1p(-risk.alpha) - 1e-9)} responses"
    if budget < -1e-9:
        return certificate(rows, risk, None, setting, group, f"too few calibration responses: {short}")
    over = int(np.searchsorted(total, budget + 1e-9, side="right"))
    found = math.inf if over == len(total) else float(np.nextafter(at[order[over]], -math.inf))
    return certificate(rows, risk, found, setting, group)


def _losses(rows: Pairs, kind: str) -> tuple[Array, Array]:
    """At which scores loss is added, and how much: the loss of a response only grows with the threshold."""
    if kind == "any":
        at = np.array([s[h].min() for s, h in rows if h.any()])
        return at, np.ones(len(at))
    weights = [np.full(int(h.sum()), 1 / len(h)) for _, h in rows if len(h)]
    return np.concatenate([np.zeros(0), *(s[h] for s, h in rows)]), np.concatenate([np.zeros(0), *weights])
