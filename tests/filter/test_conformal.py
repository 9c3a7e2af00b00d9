"""Conformal thresholds against their definitions, by brute force over every threshold there is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from vtokens.filter.guarantees.conformal import threshold
from vtokens.filter.guarantees.responses import realised
from vtokens.filter.guarantees.risk import Certificate, Risk
from vtokens.filter.guarantees.setting import CalibrationSetting

MENTION = st.tuples(st.integers(0, 5), st.booleans())  # few scores, so that there are ties
RESPONSES = st.lists(st.lists(MENTION, max_size=4), min_size=1, max_size=40)
ALPHA = st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.9])


def split(responses):
    return [[s for s, _ in r] for r in responses], [[h for _, h in r] for r in responses]


def largest(scores, labels, allowed):
    """The largest of all thresholds that differ in what they keep, -inf among them, that is allowed."""
    distinct = sorted({s for row in scores for s in row})
    return max([t for t in [-math.inf, *(d - 0.5 for d in distinct), math.inf] if allowed(t)], default=None)


def check(found, scores, labels, expected):
    """Both thresholds keep the same; none, or one that keeps nothing, is infeasible."""
    everything = np.array([s for row in scores for s in row], dtype=float)
    if expected is None or (len(everything) and not (everything <= expected).any()):
        assert found.infeasible
        assert found.reason
        assert not found.keeps(everything).any()
    else:
        assert (found.keeps(everything) == (everything <= expected)).all()
        assert math.isinf(found.threshold) == math.isinf(expected)


@given(RESPONSES, ALPHA, st.sampled_from(["any", "share"]))
def test_conformal_risk_control_by_its_definition(responses, alpha, kind):
    scores, labels = split(responses)
    n = len(responses)

    def allowed(t):
        return n / (n + 1) * realised(scores, labels, kind, t) + 1 / (n + 1) <= alpha + 1e-12

    check(threshold(scores, labels, Risk(kind, alpha, None)), scores, labels, largest(scores, labels, allowed))


@given(RESPONSES, ALPHA, st.sampled_from([0.05, 0.1, 0.3]))
def test_pac_form_by_the_binomial_tail(responses, alpha, delta):
    scores, labels = split(responses)
    n = len(responses)

    def allowed(t):
        wrong = sum(any(h and s <= t for s, h in row) for row in responses)
        return binom.cdf(wrong, n, alpha) <= delta

    check(threshold(scores, labels, Risk("any", alpha, delta)), scores, labels, largest(scores, labels, allowed))


@given(RESPONSES, ALPHA)
def test_order_statistic_form(responses, alpha):
    """The equivalent rule: just below the k-th smallest of each response's least score of an unsupported mention."""
    scores, labels = split(responses)
    least = sorted(min((s for s, h in row if h), default=math.inf) for row in responses)
    k = math.floor(alpha * (len(responses) + 1) + 1e-9)
    found = threshold(scores, labels, Risk("any", alpha, None))
    if k == 0:
        assert found.infeasible
        assert f"it takes at least {math.ceil(1 / alpha - 1 - 1e-9)} responses" in found.reason
    elif not found.infeasible:
        assert found.threshold == np.nextafter(least[k - 1], -math.inf) or least[k - 1] == found.threshold == math.inf


@given(RESPONSES)
def test_realised_risks_by_counting(responses):
    scores, labels = split(responses)
    kept = [[h for s, h in row if s <= 2] for row in responses]
    assert realised(scores, labels, "any", 2) == pytest.approx(np.mean([any(row) for row in kept]))
    share = np.mean([sum(row) / max(1, len(all_)) for row, all_ in zip(kept, responses, strict=True)])
    assert realised(scores, labels, "share", 2) == pytest.approx(share)
    total = sum(map(len, kept))
    assert realised(scores, labels, "ratio", 2) == (sum(map(sum, kept)) / total if total else 0)
    assert realised(scores, labels, "any", None) == 0


def test_too_few_responses_name_how_many_it_takes():
    rows = [[0.5]] * 44, [[False]] * 44
    found = threshold(*rows, Risk("any", 0.05, 0.1))
    assert found.infeasible
    assert "it takes at least 45 responses" in found.reason
    assert not threshold([[0.5]] * 45, [[False]] * 45, Risk("any", 0.05, 0.1)).infeasible
    assert "it takes at least 9 responses" in threshold([[0.5]] * 8, [[False]] * 8, Risk("any", 0.1, None)).reason
    assert not threshold([[0.5]] * 9, [[False]] * 9, Risk("any", 0.1, None)).infeasible


def drawn(n, seed, rate=0.25, gap=2.5):
    rng = np.random.default_rng(seed)
    labels = [rng.random(rng.integers(0, 6)) < rate for _ in range(n)]
    return [rng.normal(gap * h, 1.0) for h in labels], labels


@pytest.mark.parametrize("risk", [Risk("any", 0.1), Risk("any", 0.1, None), Risk("share", 0.05), Risk("ratio", 0.1)])
def test_certificate_says_what_it_guarantees_and_survives_json(risk):
    import json

    scores, labels = drawn(800, 1)
    setting = CalibrationSetting("m-1", "cls(keep=0.5)", "captions", "greedy", "scenes")
    found = threshold(scores, labels, risk, setting=setting)
    assert Certificate.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    text = str(found)
    for part in (str(risk), f"{found.threshold:.6g}", "cls(keep=0.5)", "not about this image", "extractor"):
        assert part in text
    assert ("No response has more than 5 mentions." in text) == (risk.kind == "ratio")
    assert found.observed <= risk.alpha < found.unfiltered
    everything, wrong = np.concatenate(scores), np.concatenate(labels)
    if risk.delta is None or risk.kind == "any":
        assert found.kept_supported == pytest.approx((everything[~wrong] <= found.threshold).mean())


def test_infinite_threshold_survives_json():
    import json

    found = threshold([[1.0]] * 50, [[False]] * 50, Risk("any", 0.1))
    assert found.threshold == math.inf
    assert Certificate.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    assert found.keeps([1e300]).all()
    assert "threshold: keep all mentions" in str(found)


def test_infeasible_is_said():
    scores, labels = drawn(60, 2, gap=0.0)
    found = threshold(scores, labels, Risk("ratio", 0.05))
    assert found.infeasible
    assert str(found).startswith("infeasible: the expected number")
    assert found.observed is found.kept_supported is None


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([], [], "at least one, got 0, 0"),
        ([[1.0]], [[True], [False]], "got 1, 2"),
        ([[1.0, 2.0]], [[True]], r"response 0 needs one score and one label a mention, got \(2,\) and \(1,\)"),
        ([[1.0], [math.nan, 1.0]], [[True], [True, False]], "response 1 has 1 scores that are NaN among 2"),
    ],
)
def test_responses_that_cannot_be(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        threshold(scores, labels, Risk())
