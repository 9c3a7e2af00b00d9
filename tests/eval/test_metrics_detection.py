"""Detection: every figure against its definition, and labels that allow none."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtokens.eval.metrics import detection
from vtokens.eval.metrics.detection import auroc, average_precision, brier, ece, stratified_auroc
from vtokens.eval.metrics.selective import augrc, aurc, excess_aurc, kept_real

SAMPLES = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 2)), min_size=1, max_size=25)


def columns(samples):
    scores, labels, strata = (np.array(column, dtype=float) for column in zip(*samples, strict=True))
    return scores, labels, strata


def pairs(samples):
    """How each positive compares with each negative: 1 above, 0.5 equal, 0 below."""
    return [float(a > b) + float(a == b) / 2 for a, bad, _ in samples if bad for b, good, _ in samples if not good]


def same(found, expected):
    return (math.isnan(found) and expected is None) or found == pytest.approx(expected)


@given(SAMPLES)
def test_auroc_by_its_pairs(samples):
    scores, labels, strata = columns(samples)
    compared = pairs(samples)
    assert same(auroc(scores, labels), np.mean(compared) if compared else None)
    inside = [p for stratum in range(3) for p in pairs([s for s in samples if s[2] == stratum])]
    assert same(stratified_auroc(scores, labels, strata), np.mean(inside) if inside else None)


def test_auroc_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(2)
    labels = rng.random(500) < 0.1
    for scores in (rng.normal(labels), rng.integers(0, 4, 500).astype(float)):
        assert auroc(scores, labels.astype(float)) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@given(SAMPLES)
def test_average_precision_by_its_steps(samples):
    scores, labels, _ = columns(samples)
    total, before, found = labels.sum(), 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        recall = labels[scores >= threshold].sum() / max(total, 1)
        found += (recall - before) * labels[scores >= threshold].mean()
        before = recall
    assert same(average_precision(scores, labels), found if 0 < total < len(labels) else None)


@given(SAMPLES)
def test_risk_by_coverage(samples):
    """Without ties the lowest-scored are counted one by one; where all are tied, order does not matter."""
    scores, labels, _ = columns(samples)
    unique = scores + np.arange(len(scores)) / 100
    in_order = labels[np.argsort(unique)]
    shares = [in_order[:k].mean() for k in range(1, len(labels) + 1)]
    counts = [in_order[:k].sum() / len(labels) for k in range(1, len(labels) + 1)]
    assert aurc(unique, labels) == pytest.approx(np.mean(shares))
    assert augrc(unique, labels) == pytest.approx(np.mean(counts))
    best = np.sort(labels)
    ideal = np.mean([best[:k].mean() for k in range(1, len(labels) + 1)])
    assert excess_aurc(unique, labels) == pytest.approx(np.mean(shares) - ideal)
    assert excess_aurc(scores, labels) >= -1e-12
    assert excess_aurc(labels, labels) == 0
    everywhere = np.zeros(len(labels))
    assert aurc(everywhere, labels) == pytest.approx(labels.mean())


@given(SAMPLES, st.sampled_from([0.0, 0.1, 0.4, 1.0]))
def test_kept_real_by_trying_every_threshold(samples, risk):
    scores, labels, _ = columns(samples)
    kept = [labels[scores <= threshold] for threshold in scores]
    right = [(rows == 0).sum() for rows in kept if rows.mean() <= risk + 1e-12]
    real = (labels == 0).sum()
    assert same(kept_real(scores, labels, risk), max(right, default=0) / real if real else None)


def test_equal_scores_are_kept_together_infinite_ones_too():
    """No threshold parts the two at infinity, of which one is wrong: one of both right ones is kept without risk."""
    for most in (1.0, np.inf):
        assert kept_real(np.array([0.0, most, most]), np.array([0, 0, 1]), 0.0) == 0.5


def test_excess_of_many_samples_is_near_its_formula():
    labels = np.arange(4000) < 1000
    optimal = 0.25 + 0.75 * math.log(0.75)
    assert aurc(labels.astype(float), labels) == pytest.approx(optimal, abs=1e-3)


def test_ece_of_a_worked_example():
    """Two bins of two: |.1 - 0| and |.8 - .5|, each half of the mass."""
    p, y = np.array([0.9, 0.1, 0.7, 0.1]), np.array([1.0, 0.0, 0.0, 0.0])
    assert ece(p, y, bins=2) == pytest.approx((0.1 + 0.3) / 2)
    assert brier(p, y) == pytest.approx((0.01 + 0.01 + 0.49 + 0.01) / 4)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.6, 1.0]), st.booleans()), min_size=1, max_size=40))
def test_ece_does_not_depend_on_the_order(samples):
    p, y = np.array(samples, dtype=float).T
    found = ece(p, y)
    assert found == pytest.approx(ece(p[::-1], y[::-1]))
    assert abs(p.mean() - y.mean()) - 1e-12 <= found <= 1


def test_ece_is_small_for_true_probabilities_and_large_for_shifted_ones():
    rng = np.random.default_rng(0)
    p = rng.random(20000)
    y = rng.random(20000) < p
    assert ece(p, y) < 0.02
    assert ece(p**2, y) > 0.1


def test_all_figures_with_intervals_by_image():
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(60), 5)
    labels = rng.random(300) < 0.3
    scores = 1 / (1 + np.exp(-rng.normal(2.0 * labels - 1, 1)))
    found = detection(
        scores, labels, strata=np.tile(range(5), 60), probabilities=True, groups=images, risks=(0.1,), resamples=200
    )
    assert (found.n, found.positives, found.reason) == (300, labels.sum(), "")
    expected = {
        "auroc": auroc(scores, labels),
        "ap": average_precision(scores, labels),
        "brier": brier(scores, labels),
        "ece": ece(scores, labels),
        "aurc": aurc(scores, labels),
        "excess_aurc": excess_aurc(scores, labels),
        "augrc": augrc(scores, labels),
        "stratified": stratified_auroc(scores, labels, np.tile(range(5), 60)),
    }
    for name, value in {**expected, **found.kept_real}.items():
        interval = value if name == 0.1 else getattr(found, name)
        assert interval.low < interval.high
        assert interval.value == (kept_real(scores, labels, 0.1) if name == 0.1 else pytest.approx(value))
    copied = detection(np.repeat(scores, 3), np.repeat(labels, 3), groups=np.repeat(images, 3), resamples=200)
    assert copied.auroc.low == pytest.approx(found.auroc.low)


@pytest.mark.parametrize("label", [True, False])
def test_one_class_gives_none_and_the_reason(label):
    found = detection([0.1, 0.9, 0.4], [label] * 3, strata=[0, 1, 1], probabilities=True, resamples=20)
    assert found.auroc is found.ap is found.stratified is None
    assert found.reason == f"all 3 labels are {label}"
    assert found.brier is not None
    assert found.aurc.value == float(label)
    assert found.kept_real[0.05] is None if label else found.kept_real[0.05].value == 1.0


def test_strata_of_one_class_each():
    found = detection([0.1, 0.9], [True, False], strata=["a", "b"], resamples=20)
    assert found.stratified is None
    assert found.auroc.value == 0


@pytest.mark.parametrize(
    ("scores", "labels", "more", "error", "message"),
    [
        ([], [], {}, ValueError, "at least one"),
        ([0.1], [True, False], {}, ValueError, "one label a score"),
        ([0.1], [1], {}, TypeError, "labels must be bools, got int64"),
        ([math.nan, 1.0], [True, False], {}, ValueError, "1 of 2 scores are NaN"),
        ([1.5], [True], {"probabilities": True}, ValueError, r"must lie in \[0, 1\], got 1.5 to 1.5"),
        ([0.5], [True], {"strata": [1, 2]}, ValueError, "strata must hold one label a score, got 2 for 1"),
    ],
)
def test_what_cannot_be_graded(scores, labels, more, error, message):
    with pytest.raises(error, match=message):
        detection(scores, labels, **more)
